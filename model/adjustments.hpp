// SPDX-License-Identifier: Apache-2.0
#pragma once
// What penalties and biases do to the logits of single tokens, before anything is drawn. Said once
// for the host's sampler and the devices'.

#include <limits>
#include <span>
#include <vector>

#include "model/sampling.hpp"

namespace foretoken::model {

// The neutral values change no bit of a logit.
struct adjustment {
  token id = -1;
  float repetition = 1;
  float subtract = 0;  // presence + frequency * occurrences among the generated tokens
  float bias = -0.0f;
};

bool penalises(const sampling_parameters& parameters) noexcept;
bool adjusts(const sampling_parameters& parameters) noexcept;  // a penalty or a bias is set

// All of one draw, for ids in [0, vocabulary). False when an id has more than one entry, because
// logit_bias names it again: these are applied in order. Any thread.
bool collect_adjustments(const sampling_parameters& parameters,
                         std::span<const token> prompt,
                         std::span<const token> generated,
                         int vocabulary,
                         std::vector<adjustment>& out);

constexpr float adjusted(float x, const adjustment& by) noexcept {
  const float repeated = x > 0 ? x / by.repetition : x * by.repetition;
  return (repeated - by.subtract) + by.bias;
}

// Penalties and biases can leave the range of float; what they produce stays finite.
constexpr float settled(float x) noexcept {
  constexpr float most = std::numeric_limits<float>::max();
  if (x != x) return -most;
  return x < -most ? -most : x > most ? most : x;
}

}  // namespace foretoken::model
