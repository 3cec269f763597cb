// SPDX-License-Identifier: Apache-2.0
#pragma once
// From raw logits to a token. Pure functions: the same logits, parameters, history and position
// give the same token on every machine and in every batch (counter-based randomness keyed by seed
// and position, no state between calls).

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "base/ids.hpp"

namespace foretoken::model {

struct sampling_parameters {
  float temperature = 1;  // 0 = greedy
  int top_k = 0;          // 0 = off
  float top_p = 1;        // 1 = off
  float min_p = 0;        // 0 = off
  float repetition_penalty =
      1;  // 1 = off; divides positive and multiplies negative logits of seen tokens
  float presence_penalty = 0;   // subtracted once from tokens already generated
  float frequency_penalty = 0;  // subtracted per occurrence among the generated tokens
  std::uint64_t seed = 0;
  std::vector<std::pair<token, float>> logit_bias;
  int logprobs = -1;  // -1 = none; 0.. = that many alternatives beside the chosen token
  bool operator==(const sampling_parameters&) const = default;
};

struct token_probability {
  token id = -1;
  float logprob = 0;  // log-softmax of the raw logits
};

struct sampled {
  token id = -1;
  float logprob = 0;                   // of `id`; only when logprobs were asked for
  std::vector<token_probability> top;  // best first, ties by lower id
  bool non_finite = false;             // a NaN or infinity stood in the logits: id is -1
};

// `prompt` and `generated` are the tokens so far (repetition looks at both, presence and frequency
// at generated). `position` counts generated tokens of this choice: the randomness key with the
// seed.
sampled sample(std::span<const float> logits,
               const sampling_parameters& parameters,
               std::span<const token> prompt,
               std::span<const token> generated,
               std::uint64_t position);

// Log-probability of a given token and the top alternatives, for echo.
sampled score(std::span<const float> logits, token target, int logprobs);

}  // namespace foretoken::model
