// SPDX-License-Identifier: Apache-2.0
#pragma once
// What a model file says about the shape of its network, in one form for GGUF and Hugging Face
// files.

#include <cstdint>
#include <string>
#include <vector>

namespace foretoken::model {

enum class architecture { llama, mistral, qwen2, qwen3, gemma3, gpt2 };
const char* architecture_name(architecture arch) noexcept;

enum class norm_kind { rms, layer };  // layer: mean and variance, with bias
enum class activation_kind { silu_gate, gelu_tanh_gate, gelu_tanh };  // gelu_tanh: no gate (gpt2)

// Rotary position embedding. Angle of pair i at position p = p * frequency[i].
// frequency already holds every scaling rule (linear, llama3, yarn is refused); rotary_dim/2
// entries.
struct rope_parameters {
  std::vector<float> frequency;
  bool operator==(const rope_parameters&) const = default;
};

// One attention layer's rule: which positions a token sees, and with which rope table.
struct layer_attention {
  int window = 0;  // 0 = all earlier positions; w = itself and the w-1 before it
  int rope = 0;    // index into hyperparameters::ropes; -1 = no rotary embedding
  bool operator==(const layer_attention&) const = default;
};

struct hyperparameters {
  architecture arch = architecture::llama;
  std::string name;  // general.name or the folder's name, for people
  int layers = 0;
  int width = 0;  // hidden size
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int ffn = 0;  // intermediate size
  int vocabulary = 0;
  int context = 0;  // longest sequence, in tokens
  float norm_epsilon = 0;
  norm_kind norm = norm_kind::rms;
  activation_kind activation = activation_kind::silu_gate;
  bool post_norms = false;  // gemma3: a norm after attention and after ffn, before the residual
  bool qk_norm = false;     // qwen3, gemma3: RMS norm of every q and k head before rope
  bool learned_positions = false;  // gpt2
  bool tied_head = false;          // the output layer is the embedding
  // How a rotary pair lies in a stored row of q and k: neighbours (2i, 2i+1) in llama.cpp's order
  // for the llama family, halves (i, i + rotary_dim/2) elsewhere. Loaders never reorder; backends
  // honour it.
  bool rope_neighbours = false;
  float embedding_scale = 1;    // gemma3: sqrt(width)
  float query_scale = 0;        // scores = query_scale * q.k
  float attention_softcap = 0;  // 0 = none
  float final_softcap = 0;      // 0 = none
  std::vector<rope_parameters> ropes;
  std::vector<layer_attention> attention;  // [layers]
};

}  // namespace foretoken::model
