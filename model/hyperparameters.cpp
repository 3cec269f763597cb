// SPDX-License-Identifier: Apache-2.0
#include "model/hyperparameters.hpp"

#include <cmath>
#include <numbers>
#include <string>

#include "model/shape_rules.hpp"

namespace foretoken::model {

const char* architecture_name(architecture arch) noexcept {
  switch (arch) {
    case architecture::llama: return "llama";
    case architecture::mistral: return "mistral";
    case architecture::qwen2: return "qwen2";
    case architecture::qwen3: return "qwen3";
    case architecture::gemma3: return "gemma3";
    case architecture::gpt2: return "gpt2";
  }
  return "unknown";
}

rope_parameters plain_rope(double base, int rotary_dim, double factor) {
  rope_parameters rope;
  rope.frequency.reserve(static_cast<std::size_t>(rotary_dim / 2));
  for (int i = 0; i < rotary_dim / 2; ++i) {
    rope.frequency.push_back(static_cast<float>(std::pow(base, -2.0 * i / rotary_dim) / factor));
  }
  return rope;
}

void scale_llama3(rope_parameters& rope, const llama3_scaling& scaling) {
  const double long_wave = scaling.original_context / scaling.low_frequency_factor;
  const double short_wave = scaling.original_context / scaling.high_frequency_factor;
  for (float& frequency : rope.frequency) {
    const double plain = static_cast<double>(frequency);
    const double wave = 2 * std::numbers::pi / plain;
    if (wave < short_wave) continue;
    double scaled = plain / scaling.factor;
    if (wave <= long_wave) {
      const double ramp = (scaling.original_context / wave - scaling.low_frequency_factor) /
                          (scaling.high_frequency_factor - scaling.low_frequency_factor);
      scaled = (1 - ramp) * scaled + ramp * plain;
    }
    frequency = static_cast<float>(scaled);
  }
}

void uniform_attention(hyperparameters& shape, int window) {
  const int rope = shape.ropes.empty() ? -1 : 0;
  shape.attention.assign(static_cast<std::size_t>(shape.layers), {.window = window, .rope = rope});
}

status check_shape(const hyperparameters& shape) {
  if (shape.kv_heads > shape.heads || shape.heads % shape.kv_heads != 0) {
    return corrupt("head_count_kv", "the key-value heads do not divide the heads evenly");
  }
  for (const auto& rope : shape.ropes) {
    if (rope.frequency.empty() ||
        rope.frequency.size() * 2 > static_cast<std::size_t>(shape.head_dim)) {
      return corrupt("rope dimension", "the rotated part must be within the head");
    }
    for (const float frequency : rope.frequency) {
      if (!std::isfinite(frequency) || frequency < 0) {
        return corrupt("rope frequency", "a rotation frequency is not a finite number");
      }
    }
  }
  if (!std::isfinite(shape.query_scale) || !std::isfinite(shape.embedding_scale)) {
    return corrupt("scale", "a scale is not a finite number");
  }
  return {};
}

}  // namespace foretoken::model
