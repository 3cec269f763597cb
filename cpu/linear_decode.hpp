// SPDX-License-Identifier: Apache-2.0
#pragma once
// Blocks of the file's quantised types taken apart into quants, scales and minima, losslessly.

#include "cpu/linear_kernels.hpp"
#include "model/tensor.hpp"

namespace foretoken::cpu {

// A weight is scales[i / group] * (quants[i] - offset) + minima[i / group].
struct decoded_block {
  std::uint8_t quants[256];
  float scales[16];
  float minima[16];
};

struct quantised_type {
  int values = 0;         // in a block; 0: not a quantised type
  std::size_t bytes = 0;  // of a block
  integer_form form;
  void (*decode)(const std::uint8_t* block, decoded_block& out) = nullptr;
};

const quantised_type& quantised(model::dtype type) noexcept;

}  // namespace foretoken::cpu
