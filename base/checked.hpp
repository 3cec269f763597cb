// SPDX-License-Identifier: Apache-2.0
#pragma once
// Integer arithmetic for numbers that come from files: an overflow is a value, never a wrap.

#include <cstdint>
#include <initializer_list>
#include <optional>

namespace foretoken {

inline std::optional<std::uint64_t> checked_add(std::uint64_t a, std::uint64_t b) noexcept {
  std::uint64_t sum = 0;
  if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
  return sum;
}

inline std::optional<std::uint64_t> checked_mul(std::uint64_t a, std::uint64_t b) noexcept {
  std::uint64_t product = 0;
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}

}  // namespace foretoken
