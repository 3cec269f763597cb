// SPDX-License-Identifier: Apache-2.0
#pragma once
// Weights of tokens before they are made probabilities: w = e^((logit - largest) / temperature).
// The exponential is our own: the C library's differs between CPUs with and without FMA. Its
// operations are plain float ones, never fused, so a weight and a sum have the same bits on every
// processor and in vectors of every width.

#include <cstddef>
#include <span>
#include <vector>

namespace foretoken::model {

constexpr std::size_t weights_block = 512;  // tokens whose weights are summed together

// e^x for x <= 0, relative error below 2e-7; 0 below -87.
float weight_of(float x) noexcept;

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
