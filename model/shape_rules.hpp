// SPDX-License-Identifier: Apache-2.0
#pragma once
// Rules that hold for the shape of every network, whatever file it came from.

#include <span>

#include "base/result.hpp"
#include "model/hyperparameters.hpp"

namespace foretoken::model {

// Upper bounds of what a file may claim; far above any real model, low enough that no product of
// two of them overflows and no table built from them is large.
inline constexpr int layers_max = 1024;
inline constexpr int width_max = 1 << 17;
inline constexpr int heads_max = 1024;
inline constexpr int head_dim_max = 1024;
inline constexpr int ffn_max = 1 << 20;
inline constexpr int vocabulary_max = 1 << 21;
inline constexpr int context_max = 1 << 24;

// frequency[i] = base^(-2i/rotary_dim) / factor
rope_parameters plain_rope(double base, int rotary_dim, double factor);

// The scaling of Llama 3.1: long waves are stretched by `factor`, short ones kept, a ramp in
// between.
struct llama3_scaling {
  double factor = 1, low_frequency_factor = 1, high_frequency_factor = 4, original_context = 8192;
};
void scale_llama3(rope_parameters& rope, const llama3_scaling& scaling);

// Every layer with the same window and rope table 0.
void uniform_attention(hyperparameters& shape, int window);

// What must hold between the numbers (heads share KV heads evenly, pairs to rotate, finite values).
status check_shape(const hyperparameters& shape);

}  // namespace foretoken::model
