// SPDX-License-Identifier: Apache-2.0
#pragma once
// The weights of a model as the fused operations want them: matrices packed, vectors as floats.

#include <memory>
#include <vector>

#include "cpu/backend.hpp"
#include "cpu/linear.hpp"
#include "cpu/packed_file.hpp"
#include "model/hyperparameters.hpp"
#include "model/tensor.hpp"

namespace foretoken::cpu {

struct layer_weights {
  std::vector<float> attention_norm, attention_norm_bias;  // an empty vector: not there
  std::vector<float> qkv_bias, q_norm, k_norm, o_bias, attention_post_norm;
  std::vector<float> ffn_norm, ffn_norm_bias, up_bias, down_bias, ffn_post_norm;
  std::unique_ptr<const linear> qkv;  // q, k, v one below the other
  std::unique_ptr<const linear> o;
  // gate and up: in turns of 16 rows when ffn is a multiple of 32, one below the other otherwise;
  // up alone without a gate.
  std::unique_ptr<const linear> gate_up;
  std::unique_ptr<const linear> down;
};

class weights {
 public:
  model::hyperparameters shape;
  numerics precision = numerics::exact;
  isa path = isa::portable;  // never automatic
  float_weights floats = float_weights::keep;
  bool interleaved = false;            // how gate_up lies
  model::tensor embedding, positions;  // their bytes are the two vectors below
  std::vector<std::byte> embedding_bytes, position_bytes;
  std::vector<layer_weights> layers;
  std::vector<float> final_norm, final_norm_bias;
  std::unique_ptr<const linear> head;
  // The head in 4 bits, for greedy rows (step_greedy.cpp); null where can_draft() says no.
  std::unique_ptr<const linear> draft;
  // [rows of the head, whole tiles]: Euclidean lengths, rounded up; empty when the head reads
  // floats.
  std::vector<float> head_norms;

  // What the layers' matrices but W_down read of their inputs, and what W_down does.
  input_parts layers_read() const noexcept;
  input_parts down_reads() const noexcept;
};

// Every block of bytes that a file on disk keeps, in one order.
const_blocks packed_blocks(const weights& from);

bool has_gate(const model::hyperparameters& shape) noexcept;
bool interleaves(const model::hyperparameters& shape) noexcept;
// What prepare_weights() will take.
std::uint64_t weight_bytes(const model::model_file& file, const options& chosen);
int thread_count(const options& chosen) noexcept;

}  // namespace foretoken::cpu
