// SPDX-License-Identifier: Apache-2.0
#pragma once
// Float weights as 8-bit ones with a scale per 32 columns (options::float_weights, w8).

#include "cpu/options.hpp"
#include "model/tensor.hpp"

namespace foretoken::cpu {

struct decoded_block;  // linear_decode.hpp
struct integer_form;   // linear_kernels.hpp

// Whether a matrix's floats are packed as 8 bits: its columns must be whole groups.
bool packs_w8(const model::tensor& matrix, const options& chosen) noexcept;

// How such a matrix is packed: as q8_0 is.
const integer_form& w8_form() noexcept;

// 32 weights in that form. The scale is an f16 value, of a few candidates that with the least
// squared error. Weights that are not finite make all of the group NaN.
void quantise_w8(const float* weights, decoded_block& out);

}  // namespace foretoken::cpu
