// SPDX-License-Identifier: Apache-2.0
#pragma once
// Tensors as they lie in a model file: a type, a shape and bytes. Nothing is converted here.

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.hpp"

namespace foretoken::model {

// Storage types. Block layouts are those of the GGUF specification (ggml's quantisation formats).
enum class dtype {
  f32,
  f16,
  bf16,
  q4_0,
  q4_1,
  q5_0,
  q5_1,
  q8_0,
  q2_k,
  q3_k,
  q4_k,
  q5_k,
  q6_k,
};
const char* dtype_name(dtype type) noexcept;
int block_values(dtype type) noexcept;         // values in one block: 1, 32 or 256
std::size_t block_bytes(dtype type) noexcept;  // bytes of one block

// A matrix is [rows, columns], columns contiguous: y[rows] = W x[columns]. A vector is [1,
// columns]. Does not own its bytes: they live as long as the model_file they came from.
struct tensor {
  std::string name;  // as in the file, for messages
  dtype type = dtype::f32;
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  bool transposed = false;  // stored [columns, rows] (gpt2's safetensors); only f32, f16, bf16
  std::span<const std::byte> bytes;
  bool empty() const noexcept { return bytes.empty(); }
};

// Values of rows [first, first + count) as float32 into out[count * columns]. Exact for every dtype
// up to one float32 rounding of scale * quant (+ min). REQUIRES a valid row range.
void dequantise(const tensor& source, std::int64_t first, std::int64_t count, float* out);

}  // namespace foretoken::model
