// SPDX-License-Identifier: Apache-2.0
#include "cpu/float_weights.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/half.hpp"
#include "cpu/linear_decode.hpp"

namespace foretoken::cpu {
namespace {

constexpr int lowest = -128, highest = 127;

// One scale's quants of a group, as floats, and what they are worth.
struct rounding {
  float scale = 0;
  float quants[block_columns] = {};
  float squared_error = std::numeric_limits<float>::infinity();
};

float as_f16(float scale) {
  return f16_to_float(float_to_f16(scale));
}

// In plain loops of floats, which vectorise: adding and taking away 1.5 * 2^23 rounds to whole.
rounding round_with(float scale, const float* weights) {
  constexpr float whole = 12582912.0f;
  rounding made;
  made.scale = scale;
  const float inverse = 1.0f / scale;
  for (int i = 0; i < block_columns; ++i) {
    const float bounded = std::min(std::max(weights[i] * inverse, float{lowest}), float{highest});
    made.quants[i] = (bounded + whole) - whole;
  }
  float errors[4] = {};
  for (int i = 0; i < block_columns; i += 4) {
    for (int j = 0; j < 4; ++j) {
      const float away = weights[i + j] - scale * made.quants[i + j];
      errors[j] += away * away;
    }
  }
  made.squared_error = (errors[0] + errors[1]) + (errors[2] + errors[3]);
  return made;
}

// The scale that these quants want: sum(w q) / sum(q q).
float best_scale(const rounding& of, const float* weights) {
  float products = 0, squares = 0;
  for (int i = 0; i < block_columns; ++i) {
    products += weights[i] * of.quants[i];
    squares += of.quants[i] * of.quants[i];
  }
  return squares > 0 ? products / squares : 0;
}

void keep_better(float scale, const float* weights, rounding& best) {
  if (!(scale > 0) || scale == best.scale) return;
  const rounding next = round_with(scale, weights);
  if (next.squared_error < best.squared_error) best = next;
}

// From the scale that just reaches the largest weight: some smaller and larger ones, then the one
// that the best one's quants want.
rounding search(float largest, const float* weights) {
  rounding best;
  for (const float steps : {127.0f, 128.0f, 126.0f, 125.0f, 123.5f, 122.0f, 120.0f}) {
    keep_better(as_f16(largest / steps), weights, best);
  }
  keep_better(as_f16(best_scale(best, weights)), weights, best);
  return best;
}

void fill(decoded_block& out, float scale, std::uint8_t quant) {
  out.scales[0] = scale;
  std::fill_n(out.quants, block_columns, quant);
}

}  // namespace

bool packs_w8(const model::tensor& matrix, const options& chosen) noexcept {
  return chosen.floats == float_weights::w8 && chosen.precision != numerics::float32 &&
         quantised(matrix.type).values == 0 && matrix.columns % block_columns == 0;
}

const integer_form& w8_form() noexcept {
  return quantised(model::dtype::q8_0).form;
}

void quantise_w8(const float* weights, decoded_block& out) {
  const auto zero = static_cast<std::uint8_t>(w8_form().offset);
  float largest = 0;
  bool finite = true;
  for (int i = 0; i < block_columns; ++i) {
    finite = finite && std::isfinite(weights[i]);
    largest = std::max(largest, std::fabs(weights[i]));
  }
  constexpr float f16_max = 65504.0f;
  if (!finite || largest > highest * f16_max) {
    return fill(out, std::numeric_limits<float>::quiet_NaN(), zero);
  }
  const rounding best = search(largest, weights);
  if (!std::isfinite(best.squared_error)) return fill(out, 0, zero);  // all below f16's least scale
  out.scales[0] = best.scale;
  for (int i = 0; i < block_columns; ++i) {
    out.quants[i] = static_cast<std::uint8_t>(static_cast<int>(best.quants[i]) + zero);
  }
}

}  // namespace foretoken::cpu
