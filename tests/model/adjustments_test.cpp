// SPDX-License-Identifier: Apache-2.0
#include "model/adjustments.hpp"

#include <bit>
#include <cmath>
#include <cstdint>

#include "doctest/doctest.h"

namespace foretoken::model {
namespace {

constexpr float inf = std::numeric_limits<float>::infinity();

TEST_CASE("adjustments: an entry a token, with how often it was generated and its bias") {
  sampling_parameters p;
  p.repetition_penalty = 2;
  p.presence_penalty = 1;
  p.frequency_penalty = 0.5f;
  p.logit_bias = {{4, 3.0f}, {6, -1.0f}, {99, 1.0f}, {-1, 1.0f}};
  const std::vector<token> prompt{2, 4, 4, 100, -3}, generated{4, 5, 4};
  std::vector<adjustment> got{{7, 3, 3, 3}};  // of an earlier draw
  for (int again = 0; again < 2; ++again) {
    CHECK(collect_adjustments(p, prompt, generated, 10, got));
    REQUIRE(got.size() == 4);
    const auto is = [](const adjustment& one, token id, float repetition, float subtract) {
      return one.id == id && one.repetition == repetition && one.subtract == subtract;
    };
    CHECK(is(got[0], 4, 2, 2));
    CHECK(is(got[1], 5, 2, 1.5f));
    CHECK(is(got[2], 2, 2, 0));
    CHECK(is(got[3], 6, 1, 0));
    CHECK(got[0].bias == 3);
    CHECK(got[3].bias == -1);
  }
  CHECK(adjusted(5, got[0]) == 3.5f);
  CHECK(adjusted(-5, got[0]) == -9);
}

TEST_CASE("adjustments: a token that logit_bias names again has a second entry") {
  sampling_parameters p;
  p.logit_bias = {{1, 3.0f}, {2, 1.0f}, {1, 0.5f}};
  std::vector<adjustment> got;
  CHECK_FALSE(collect_adjustments(p, {}, {}, 10, got));
  REQUIRE(got.size() == 3);
  CHECK(got[2].id == 1);
  CHECK(got[2].bias == 0.5f);
}

TEST_CASE(
    "adjustments: the neutral ones change no bit; what leaves the range of float comes back") {
  for (const float x : {0.0f, -0.0f, 1e-45f, -3.7f, 3.4028235e38f}) {
    CHECK(std::bit_cast<std::uint32_t>(settled(adjusted(x, {0}))) ==
          std::bit_cast<std::uint32_t>(x));
  }
  constexpr float most = std::numeric_limits<float>::max();
  CHECK(settled(inf) == most);
  CHECK(settled(-inf) == -most);
  CHECK(settled(NAN) == -most);
}

}  // namespace
}  // namespace foretoken::model
