// SPDX-License-Identifier: Apache-2.0
#include "model/sampling.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <random>

#include "doctest/doctest.h"
#include "model/philox.hpp"

using namespace foretoken;
using model::sample;
using model::sampled;
using model::sampling_parameters;
using model::score;

namespace {

// Logits whose softmax is exactly the wanted distribution.
std::vector<float> logs(std::initializer_list<double> probabilities) {
  std::vector<float> out;
  for (const double p : probabilities) out.push_back(static_cast<float>(std::log(p)));
  return out;
}

std::vector<float> random_logits(unsigned seed, std::size_t n) {
  std::mt19937 random(seed);
  std::vector<float> out(n);
  for (float& x : out) x = static_cast<float>(random() % 20001) / 1000.0f - 10.0f;
  return out;
}

std::map<token, int> histogram(const std::vector<float>& logits,
                               const sampling_parameters& p,
                               int draws) {
  std::map<token, int> out;
  for (int i = 0; i < draws; ++i)
    ++out[sample(logits, p, {}, {}, static_cast<std::uint64_t>(i)).id];
  return out;
}

// The slow, obvious form of the same rules, in double with a full sort.
std::vector<token> candidates_of(const std::vector<float>& logits, const sampling_parameters& p) {
  std::vector<token> ids(logits.size());
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<token>(i);
  const auto at = [&](token id) {
    return static_cast<double>(logits[static_cast<std::size_t>(id)]);
  };
  std::stable_sort(ids.begin(), ids.end(), [&](token a, token b) { return at(a) > at(b); });
  if (p.top_k > 0 && static_cast<std::size_t>(p.top_k) < ids.size())
    ids.resize(static_cast<std::size_t>(p.top_k));
  double total = 0;
  const auto weight = [&](token id) {
    return std::exp((at(id) - at(ids[0])) / static_cast<double>(p.temperature));
  };
  for (const token id : ids) total += weight(id);
  std::vector<token> kept;
  double sum = 0;
  for (const token id : ids) {
    if (!kept.empty() && p.top_p < 1 && sum >= static_cast<double>(p.top_p) * total) break;
    if (!kept.empty() && weight(id) < static_cast<double>(p.min_p)) break;
    kept.push_back(id);
    sum += weight(id);
  }
  return kept;
}

constexpr float inf = std::numeric_limits<float>::infinity();
constexpr float nan_value = std::numeric_limits<float>::quiet_NaN();

}  // namespace

TEST_CASE("philox: the published known answers") {
  using words = model::philox_words;
  CHECK(model::philox4x32({0, 0, 0, 0}, {0, 0}) ==
        words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(model::philox4x32({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}) ==
        words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(model::philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
                          {0xa4093822, 0x299f31d0}) ==
        words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
  for (std::uint64_t i = 0; i < 1000; ++i) {
    CHECK(model::uniform(i, i * i) >= 0.0);
    CHECK(model::uniform(i, i * i) < 1.0);
  }
}

TEST_CASE("sampling: greedy takes the largest, ties go to the lowest id") {
  sampling_parameters p;
  p.temperature = 0;
  CHECK(sample(std::vector<float>{1, 3, 3, 2}, p, {}, {}, 0).id == 1);
  CHECK(sample(std::vector<float>{-0.0f, 0.0f}, p, {}, {}, 0).id == 0);
  CHECK(sample(std::vector<float>{-5}, p, {}, {}, 0).id == 0);
  CHECK(sample(std::vector<float>{}, p, {}, {}, 0).id == -1);
  for (const std::size_t n : {1u, 7u, 16u, 17u, 511u, 512u, 513u, 1025u, 49152u}) {
    CAPTURE(n);
    for (unsigned seed = 0; seed < 10; ++seed) {
      const auto x = random_logits(seed, n);
      const auto best = std::max_element(x.begin(), x.end()) - x.begin();  // the first largest
      CHECK(sample(x, p, {}, {}, 0).id == static_cast<token>(best));
    }
  }
}

TEST_CASE("sampling: a NaN or infinity anywhere is told, not sampled") {
  for (const float bad : {inf, -inf, nan_value}) {
    for (const std::size_t at : {0u, 15u, 16u, 511u, 512u, 999u}) {
      for (const float temperature : {0.0f, 1.0f}) {
        auto x = random_logits(1, 1000);
        x[at] = bad;
        sampling_parameters p;
        p.temperature = temperature;
        const sampled out = sample(x, p, {}, {}, 0);
        CHECK(out.id == -1);
        CHECK(out.non_finite);
        CHECK(score(x, 3, 2).non_finite);
      }
    }
  }
}

TEST_CASE("sampling: the same seed and position give the same token, others differ") {
  const auto x = random_logits(5, 1000);
  sampling_parameters p;
  p.temperature = 5;
  p.seed = 42;
  std::vector<token> first, second, third;
  for (std::uint64_t i = 0; i < 50; ++i) first.push_back(sample(x, p, {}, {}, i).id);
  for (std::uint64_t i = 50; i-- > 0;) second.push_back(sample(x, p, {}, {}, i).id);  // any order
  std::reverse(second.begin(), second.end());
  CHECK(first == second);
  p.seed = 43;
  for (std::uint64_t i = 0; i < 50; ++i) third.push_back(sample(x, p, {}, {}, i).id);
  CHECK(first != third);
}

TEST_CASE("sampling: draws follow the distribution") {
  sampling_parameters p;
  p.seed = 7;
  constexpr int draws = 40000;
  const auto check = [&](const std::vector<float>& x, std::vector<double> expected) {
    auto seen = histogram(x, p, draws);
    double chi = 0;
    int freedom = -1;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const int count = seen[static_cast<token>(i)];
      if (expected[i] == 0) {
        CHECK(count == 0);
        continue;
      }
      const double wanted = expected[i] * draws;
      chi += (count - wanted) * (count - wanted) / wanted;
      ++freedom;
    }
    CHECK(chi < freedom + 5 * std::sqrt(2.0 * freedom) + 5);  // beyond five deviations
  };
  const auto x = logs({0.5, 0.25, 0.125, 0.0625, 0.0625});
  SUBCASE("plain") {
    check(x, {0.5, 0.25, 0.125, 0.0625, 0.0625});
  }
  SUBCASE("temperature 0.5 squares the odds") {
    p.temperature = 0.5f;
    const double sum = 0.25 + 0.0625 + 0.015625 + 2 * 0.00390625;
    check(x, {0.25 / sum, 0.0625 / sum, 0.015625 / sum, 0.00390625 / sum, 0.00390625 / sum});
  }
  SUBCASE("top_k keeps the k largest, the lower id of a tie") {
    p.top_k = 4;
    check(x, {8 / 15.0, 4 / 15.0, 2 / 15.0, 1 / 15.0, 0});
  }
  SUBCASE("top_p keeps the fewest whose share reaches it") {
    p.top_p = 0.7f;
    check(x, {2 / 3.0, 1 / 3.0, 0, 0, 0});
  }
  SUBCASE("top_p counts shares among what top_k left") {
    p.top_k = 2;
    p.top_p = 0.66f;  // 2/3 of what is left reaches it alone
    check(x, {1, 0, 0, 0, 0});
  }
  SUBCASE("min_p is relative to the most probable") {
    p.min_p = 0.2f;  // 0.125 / 0.5 = 0.25 stays, 0.0625 / 0.5 goes
    check(x, {4 / 7.0, 2 / 7.0, 1 / 7.0, 0, 0});
  }
  SUBCASE("top_p 0 keeps one") {
    p.top_p = 0;
    check(x, {1, 0, 0, 0, 0});
  }
  SUBCASE("a tiny temperature is greedy") {
    p.temperature = 1e-30f;
    check(x, {1, 0, 0, 0, 0});
  }
}

TEST_CASE("sampling: what can be drawn is what a full sort would leave") {
  for (unsigned seed = 1; seed <= 40; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    const auto x = random_logits(seed, 40 + random() % 3000);
    sampling_parameters p;
    p.seed = seed;
    p.temperature = 0.5f + static_cast<float>(random() % 100) / 25.0f;
    if (random() % 2 == 0) p.top_k = 1 + static_cast<int>(random() % 2000);
    if (random() % 2 == 0) p.top_p = static_cast<float>(random() % 100) / 100.0f;
    if (random() % 2 == 0) p.min_p = static_cast<float>(random() % 100) / 300.0f;
    auto allowed = candidates_of(x, p);
    std::sort(allowed.begin(), allowed.end());
    int outside = 0;
    for (std::uint64_t i = 0; i < 300; ++i) {
      const token id = sample(x, p, {}, {}, i).id;
      outside += std::binary_search(allowed.begin(), allowed.end(), id) ? 0 : 1;
    }
    CHECK(outside == 0);
  }
}

TEST_CASE("sampling: penalties and bias act on the logits before all else") {
  sampling_parameters p;
  p.temperature = 0;
  const std::vector<float> x{4, 3, 2, -1};
  const std::vector<token> prompt{0}, generated{1, 1, 1};
  CHECK(sample(x, p, prompt, generated, 0).id == 0);
  SUBCASE("repetition divides positive logits of tokens seen anywhere") {
    p.repetition_penalty = 2.5f;  // 1.6, 1.2, 2, -1
    CHECK(sample(x, p, prompt, generated, 0).id == 2);
    p.repetition_penalty = 1.5f;  // 2.67, 2, 2, -1
    CHECK(sample(x, p, prompt, generated, 0).id == 0);
  }
  SUBCASE("repetition multiplies negative logits, once a token") {
    p.repetition_penalty = 2;
    const std::vector<float> y{-1.5f, -1, -3};
    const std::vector<token> said{1, 1};
    CHECK(sample(y, p, said, said, 0).id == 0);  // -1 becomes -2, not -8
    const std::vector<float> z{-2.5f, -1, -3};
    CHECK(sample(z, p, said, said, 0).id == 1);
  }
  SUBCASE("presence looks at generated tokens only, once") {
    p.presence_penalty = 1.5f;
    CHECK(sample(x, p, prompt, generated, 0).id == 0);
    CHECK(sample(x, p, prompt, std::vector<token>{0, 0, 0}, 0).id == 1);
    CHECK(sample(std::vector<float>{4, 3}, p, {}, std::vector<token>{0, 0}, 0).id == 1);
    CHECK(sample(std::vector<float>{4, 2.4f}, p, {}, std::vector<token>{0, 0}, 0).id == 0);
  }
  SUBCASE("frequency counts") {
    p.frequency_penalty = 0.6f;
    CHECK(sample(std::vector<float>{4, 3}, p, {}, std::vector<token>{0}, 0).id == 0);
    CHECK(sample(std::vector<float>{4, 3}, p, {}, std::vector<token>{0, 0}, 0).id == 1);
  }
  SUBCASE("bias is added") {
    p.logit_bias = {{3, 100.0f}};
    CHECK(sample(x, p, {}, {}, 0).id == 3);
    p.logit_bias = {{0, -100.0f}, {1, -inf}, {99, 5.0f}, {-1, 5.0f}};
    CHECK(sample(x, p, {}, {}, 0).id == 2);
    p.logit_bias = {{0, std::numeric_limits<float>::max()}, {1, nan_value}};
    p.temperature = 1;
    CHECK(sample(x, p, {}, {}, 0).id == 0);
  }
  SUBCASE("nothing of one call is left for the next; unknown tokens are ignored") {
    p.repetition_penalty = 2.5f;
    p.presence_penalty = 1;
    const std::vector<token> strange{-7, 4, 1000000};
    const token before = sample(x, p, prompt, generated, 0).id;
    CHECK(sample(x, p, strange, strange, 0).id == 0);
    CHECK(sample(x, p, prompt, generated, 0).id == before);
    CHECK(sample(x, p, {}, {}, 0).id == 0);
  }
}

TEST_CASE("sampling: log-probabilities are of the raw logits") {
  const auto x = logs({0.5, 0.25, 0.125, 0.125});
  sampling_parameters p;
  p.temperature = 0;
  p.logprobs = 3;
  p.logit_bias = {{2, 100.0f}};  // changes the choice, not the report
  const sampled out = sample(x, p, {}, {}, 0);
  CHECK(out.id == 2);
  CHECK(out.logprob == doctest::Approx(std::log(0.125)).epsilon(1e-6));
  REQUIRE(out.top.size() == 3);
  CHECK(out.top[0].id == 0);
  CHECK(out.top[0].logprob == doctest::Approx(std::log(0.5)).epsilon(1e-6));
  CHECK(out.top[2].id == 2);  // the tie with 3 goes to the lower id
  p.logprobs = 0;
  CHECK(sample(x, p, {}, {}, 0).top.empty());
  CHECK(sample(x, p, {}, {}, 0).logprob < 0);
  p.logprobs = 99;
  CHECK(sample(x, p, {}, {}, 0).top.size() == 4);
}

TEST_CASE("sampling: score agrees with a log-softmax in double") {
  for (unsigned seed = 1; seed <= 5; ++seed) {
    const auto x = random_logits(seed, 49152);
    double sum = 0;
    for (const float v : x) sum += std::exp(static_cast<double>(v));
    const auto target = static_cast<token>(seed * 1000);
    const sampled out = score(x, target, 5);
    CHECK(out.id == target);
    const double wanted = static_cast<double>(x[static_cast<std::size_t>(target)]) - std::log(sum);
    CHECK(std::abs(static_cast<double>(out.logprob) - wanted) < 3e-6);
    REQUIRE(out.top.size() == 5);
    for (std::size_t i = 1; i < 5; ++i) {
      const auto &a = out.top[i - 1], &b = out.top[i];
      CHECK((a.logprob > b.logprob || (a.logprob == b.logprob && a.id < b.id)));
    }
  }
  CHECK(score(std::vector<float>{1, 2}, 2, 1).id == -1);
  CHECK(score(std::vector<float>{1, 2}, -1, 1).id == -1);
  CHECK(score(std::vector<float>{3}, 0, 0).logprob == 0);
}
