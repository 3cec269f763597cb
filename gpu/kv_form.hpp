// SPDX-License-Identifier: Apache-2.0
#pragma once
// How keys and values are kept on a device.

#include <cstddef>
#include <cstdint>

namespace foretoken::gpu {

// int8: a code a value, one f16 scale a position, head and kind (kv_page.cuh).
enum class kv_form : std::uint8_t { f16, int8 };

// Of one head in one page of 16 positions, keys and values, counted in f16 values.
constexpr std::size_t kv_head_values(kv_form form, int head_dim) {
  const std::size_t values = 2 * 16 * static_cast<std::size_t>(head_dim);
  return form == kv_form::f16 ? values : values / 2 + 2 * 16;
}

}  // namespace foretoken::gpu
