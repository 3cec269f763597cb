// SPDX-License-Identifier: Apache-2.0
#pragma once
// Weights of tokens before they are made probabilities: w = e^((logit - largest) / temperature).
// The exponential is our own: the C library's differs between CPUs with and without FMA. Its
// operations are plain float ones, never fused, so a weight and a sum have the same bits on every
// processor and in vectors of every width.

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/inline.hpp"

namespace foretoken::model {

constexpr std::size_t weights_block = 512;  // tokens whose weights are summed together

// e^x for x <= 0, relative error below 2e-7; 0 below -87. Compiled for devices too.
FORETOKEN_INLINE constexpr float weight_of(float x) noexcept {
  const float shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: rounds to an integer
  const float k = shifted - 12582912.0f;
  const float r = (x - k * 0.693359375f) - k * -2.12194440e-4f;
  float p = 1.0f / 5040.0f;
  p = p * r + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const std::uint32_t power = (std::bit_cast<std::uint32_t>(shifted) + 127u) << 23;
  const float value = p * std::bit_cast<float>(power);
  const std::uint32_t kept = x < -87.0f ? 0u : ~0u;  // a branch would keep loops out of vectors
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) & kept);
}

// Sum in double of at most weights_block values, in eight fixed lanes.
double sum_in_lanes(const float* x, std::size_t n) noexcept;

// out[i] = weight_of((x[i] - top) / temperature), resized to x; returns the sum of all, block after
// block. REQUIRES temperature > 0. Any thread.
double weigh(std::span<const float> x, float top, float temperature, std::vector<float>& out);

// For tests: the functions that weigh one block on this processor, narrowest vectors first; weigh()
// takes the last.
using weigh_function = double (*)(
    const float* x, std::size_t count, float top, float temperature, float* out) noexcept;
std::span<const weigh_function> weigh_functions() noexcept;

}  // namespace foretoken::model
