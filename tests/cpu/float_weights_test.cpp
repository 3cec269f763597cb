// SPDX-License-Identifier: Apache-2.0
#include "cpu/float_weights.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "base/half.hpp"
#include "cpu/linear_decode.hpp"
#include "doctest/doctest.h"

namespace foretoken::cpu {
namespace {

// A group's values after quantise_w8().
void round_to_w8(float (&weights)[block_columns]) {
  decoded_block block;
  quantise_w8(weights, block);
  for (int i = 0; i < block_columns; ++i) {
    weights[i] = block.scales[0] * static_cast<float>(int{block.quants[i]} - w8_form().offset);
  }
}

// The squared error of a group against what the scale of its largest weight alone gives.
TEST_CASE("float weights: the search is never worse than the largest weight's scale") {
  std::mt19937 random(11);
  std::normal_distribution<float> normal(0.0f, 0.02f);
  for (int round = 0; round < 200; ++round) {
    float weights[block_columns];
    float rounded[block_columns];
    for (int i = 0; i < block_columns; ++i) rounded[i] = weights[i] = normal(random);
    round_to_w8(rounded);
    float largest = 0;
    for (const float weight : weights) largest = std::max(largest, std::fabs(weight));
    const float scale = f16_to_float(float_to_f16(largest / 127));
    double plain = 0, ours = 0;
    for (int i = 0; i < block_columns; ++i) {
      const double quant = std::clamp(std::nearbyint(weights[i] / scale), -128.0f, 127.0f);
      plain += std::pow(weights[i] - quant * scale, 2);
      ours += std::pow(static_cast<double>(weights[i]) - rounded[i], 2);
    }
    CHECK(ours <= plain * 1.0001);
  }
}

TEST_CASE("float weights: zeros, the tiniest, the largest and what is not finite") {
  decoded_block block;
  std::vector<float> group(block_columns, 0.0f);
  const auto value = [&](std::size_t i) {
    return block.scales[0] * static_cast<float>(int{block.quants[i]} - w8_form().offset);
  };
  quantise_w8(group.data(), block);
  CHECK(value(0) == 0.0f);
  group[3] = 1e-30f;  // below f16's least scale
  quantise_w8(group.data(), block);
  CHECK(value(3) == 0.0f);
  group[3] = 8e6f;
  quantise_w8(group.data(), block);
  CHECK(value(3) == doctest::Approx(8e6f).epsilon(0.005));
  group[3] = std::numeric_limits<float>::infinity();
  quantise_w8(group.data(), block);
  CHECK(std::isnan(value(0)));
  group[3] = std::numeric_limits<float>::quiet_NaN();
  quantise_w8(group.data(), block);
  CHECK(std::isnan(value(3)));
}

}  // namespace
}  // namespace foretoken::cpu
