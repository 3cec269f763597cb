// SPDX-License-Identifier: Apache-2.0
#include "model/token_weights.hpp"

#include <bit>
#include <cmath>
#include <cstdint>
#include <random>

#include "doctest/doctest.h"

namespace foretoken::model {
namespace {

std::vector<float> random_logits(std::size_t count) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal(0, 12);
  std::vector<float> out(count);
  for (float& value : out) value = normal(random);
  return out;
}

TEST_CASE("token_weights: near e^x over the whole range, 0 below it") {
  for (float x = 0; x > -87; x -= 0.0137f) {
    const double exact = std::exp(static_cast<double>(x));
    REQUIRE(std::abs(static_cast<double>(weight_of(x)) - exact) <= 2e-7 * exact);
  }
  for (const float x : {-87.01f, -1000.0f, -3e38f}) CHECK(weight_of(x) == 0);
}

TEST_CASE("token_weights: vectors of every width have the same bits") {
  const std::vector<float> x = random_logits(weights_block);
  for (const std::size_t count : {0u, 1u, 7u, 8u, 15u, 33u, 511u, 512u}) {
    for (const float temperature : {1.0f, 0.7f, 1.3f}) {
      std::vector<float> first(count), other(count);
      const auto all = weigh_functions();
      const double sum = all[0](x.data(), count, 40, temperature, first.data());
      for (const weigh_function each : all) {
        const double its = each(x.data(), count, 40, temperature, other.data());
        CHECK(std::bit_cast<std::uint64_t>(its) == std::bit_cast<std::uint64_t>(sum));
        CHECK(other == first);
      }
    }
  }
}

TEST_CASE("token_weights: all weights and their sum, beyond one block") {
  const std::vector<float> x = random_logits(3 * weights_block + 77);
  std::vector<float> weights;
  const double sum = weigh(x, 45, 0.8f, weights);
  REQUIRE(weights.size() == x.size());
  double exact = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    CHECK(weights[i] == weight_of((x[i] - 45) / 0.8f));
    exact += std::exp((static_cast<double>(x[i]) - 45) / static_cast<double>(0.8f));
  }
  CHECK(sum == doctest::Approx(exact).epsilon(1e-5));
}

}  // namespace
}  // namespace foretoken::model
