// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "model/gguf_model.hpp"
#include "model/shape_rules.hpp"

namespace foretoken::model {
namespace {

result<architecture> architecture_of(const std::string& name) {
  for (const auto arch : {architecture::llama, architecture::mistral, architecture::qwen2,
                          architecture::qwen3, architecture::gemma3, architecture::gpt2}) {
    if (name == architecture_name(arch)) return arch;
  }
  return unsupported("general.architecture",
                     "'" + name + "' is not one of llama, mistral, qwen2, qwen3, gemma3, gpt2");
}

// Divisors of the plain frequencies, in the tensor that Llama 3.1 files carry.
status apply_frequency_factors(const gguf_contents& from, rope_parameters& rope) {
  const std::string name = "rope_freqs.weight";
  const stored_tensor* stored = from.tensors.find(name);
  if (stored == nullptr) return {};
  const std::size_t count = rope.frequency.size();
  if (stored->type != dtype::f32 || stored->shape != std::vector<std::uint64_t>{count}) {
    return corrupt(name, "this tensor must hold one F32 factor a rotated pair");
  }
  std::vector<float> factors(count);
  dequantise({name, dtype::f32, 1, static_cast<std::int64_t>(count), false, stored->bytes}, 0, 1,
             factors.data());
  for (std::size_t i = 0; i < count; ++i) {
    if (!std::isfinite(factors[i]) || factors[i] <= 0) {
      return corrupt(name, "a factor is not a positive number");
    }
    rope.frequency[i] /= factors[i];
  }
  return {};
}

void read_rope(gguf_reader& keys,
               const std::string& prefix,
               const gguf_contents& from,
               hyperparameters& shape) {
  const int dims = keys.integer(prefix + "rope.dimension_count", 2, shape.head_dim, shape.head_dim);
  if (dims % 2 != 0) {
    keys.fail(corrupt(prefix + "rope.dimension_count", "the rotated part must be even"));
  }
  const double default_base = shape.arch == architecture::gemma3 ? 1e6 : 1e4;
  const double base = keys.real(prefix + "rope.freq_base", 1e-3, 1e15, default_base);
  const std::string type = keys.text(prefix + "rope.scaling.type", "none");
  double factor = 1;
  if (type == "linear") {
    factor = keys.real(prefix + "rope.scaling.factor", 1e-6, 1e6);
  } else if (type != "none") {
    keys.fail(
        unsupported(prefix + "rope.scaling.type", "rope scaling '" + type + "' is not supported"));
  } else if (keys.has(prefix + "rope.scale_linear")) {  // the key of older files
    factor = keys.real(prefix + "rope.scale_linear", 1e-6, 1e6);
  }
  if (keys.failed()) return;
  rope_parameters rope = plain_rope(base, dims, factor);
  if (auto done = apply_frequency_factors(from, rope); !done) keys.fail(done.error());
  shape.ropes.push_back(std::move(rope));
}

// Gemma 3: five local layers, then a global one. Local layers rotate with their own base, unscaled.
void read_gemma3(gguf_reader& keys, const std::string& prefix, hyperparameters& shape) {
  shape.activation = activation_kind::gelu_tanh_gate;
  shape.post_norms = true;
  shape.qk_norm = true;
  shape.embedding_scale = static_cast<float>(std::sqrt(static_cast<double>(shape.width)));
  // The 27B model alone (62 layers) scales queries by its width a head, and no key says so.
  const double query_width = shape.layers == 62 ? static_cast<double>(shape.width) / shape.heads
                                                : static_cast<double>(shape.head_dim);
  shape.query_scale = static_cast<float>(
      keys.real(prefix + "attention.scale", 1e-6, 1e6, 1 / std::sqrt(query_width)));
  const int window = keys.integer(prefix + "attention.sliding_window", 0, context_max, 0);
  const int pattern = keys.integer(prefix + "attention.sliding_window_pattern", 1, layers_max, 6);
  const double local_base = keys.real(prefix + "rope.freq_base_swa", 1e-3, 1e15, 1e4);
  uniform_attention(shape, 0);
  if (window == 0) return;
  shape.ropes.push_back(plain_rope(local_base, shape.head_dim, 1));
  for (int layer = 0; layer < shape.layers; ++layer) {
    if ((layer + 1) % pattern != 0) {
      shape.attention[static_cast<std::size_t>(layer)] = {.window = window, .rope = 1};
    }
  }
}

void read_sizes(gguf_reader& keys,
                const std::string& prefix,
                const gguf_contents& from,
                hyperparameters& shape) {
  shape.layers = keys.integer(prefix + "block_count", 1, layers_max);
  shape.width = keys.integer(prefix + "embedding_length", 1, width_max);
  shape.heads = keys.integer(prefix + "attention.head_count", 1, heads_max);
  shape.kv_heads = keys.integer(prefix + "attention.head_count_kv", 1, heads_max, shape.heads);
  shape.ffn = keys.integer(prefix + "feed_forward_length", 1, ffn_max);
  shape.context = keys.integer(prefix + "context_length", 1, context_max);
  if (keys.failed()) return;
  if (keys.has(prefix + "attention.key_length")) {
    shape.head_dim = keys.integer(prefix + "attention.key_length", 1, head_dim_max);
  } else if (shape.width % shape.heads == 0 && shape.width / shape.heads <= head_dim_max) {
    shape.head_dim = shape.width / shape.heads;
  } else {
    keys.fail(corrupt(prefix + "attention.head_count", "the heads do not divide the width"));
  }
  if (keys.integer(prefix + "attention.value_length", 1, head_dim_max, shape.head_dim) !=
      shape.head_dim) {
    keys.fail(unsupported(prefix + "attention.value_length", "values and keys differ in length"));
  }
  const stored_tensor* embedding = from.tensors.find("token_embd.weight");
  if (embedding == nullptr) {
    keys.fail(corrupt("token_embd.weight", "this tensor is missing"));
  } else if (embedding->shape.size() != 2 || embedding->shape[0] > vocabulary_max) {
    keys.fail(corrupt("token_embd.weight", "this tensor must be [vocabulary, width]"));
  } else {
    shape.vocabulary = static_cast<int>(embedding->shape[0]);
  }
}

}  // namespace

result<hyperparameters> gguf_shape(const gguf_contents& from) {
  gguf_reader keys(from);
  const std::string name = keys.text("general.architecture");
  FORETOKEN_TRY(keys.outcome());
  const auto arch = architecture_of(name);
  if (!arch) return arch.error();
  const std::string prefix = name + ".";
  hyperparameters shape;
  shape.arch = *arch;
  shape.name = keys.text("general.name", "");
  if (keys.integer(prefix + "expert_count", 0, 1 << 20, 0) > 0) {
    return unsupported(prefix + "expert_count", "mixtures of experts are not supported");
  }
  read_sizes(keys, prefix, from, shape);
  FORETOKEN_TRY(keys.outcome());
  const bool gpt2 = shape.arch == architecture::gpt2;
  shape.norm = gpt2 ? norm_kind::layer : norm_kind::rms;
  shape.activation = gpt2 ? activation_kind::gelu_tanh : activation_kind::silu_gate;
  shape.learned_positions = gpt2;
  shape.norm_epsilon = static_cast<float>(keys.real(
      prefix + (gpt2 ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon"), 0, 1));
  shape.qk_norm = shape.arch == architecture::qwen3;
  shape.query_scale = static_cast<float>(1 / std::sqrt(static_cast<double>(shape.head_dim)));
  shape.tied_head = from.tensors.find("output.weight") == nullptr;
  shape.attention_softcap =
      static_cast<float>(keys.real(prefix + "attn_logit_softcapping", 0, 1e6, 0));
  shape.final_softcap =
      static_cast<float>(keys.real(prefix + "final_logit_softcapping", 0, 1e6, 0));
  if (!gpt2) read_rope(keys, prefix, from, shape);
  FORETOKEN_TRY(keys.outcome());
  if (shape.arch == architecture::gemma3) {
    read_gemma3(keys, prefix, shape);
  } else {
    // Mistral's files call themselves llama; the window gives them away.
    const int window = keys.integer(prefix + "attention.sliding_window", 0, context_max, 0);
    if (window > 0 && shape.arch == architecture::llama) shape.arch = architecture::mistral;
    uniform_attention(shape, window);
  }
  FORETOKEN_TRY(keys.outcome());
  shape.rope_neighbours = shape.arch == architecture::llama || shape.arch == architecture::mistral;
  FORETOKEN_TRY(check_shape(shape));
  return shape;
}

}  // namespace foretoken::model
