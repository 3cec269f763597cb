// SPDX-License-Identifier: Apache-2.0
#include "model/hugging_face.hpp"

#include <cmath>

#include "model/shape_rules.hpp"

namespace foretoken::model {
namespace {

struct model_type {
  const char* name;
  architecture arch;
};
constexpr model_type model_types[] = {
    {"llama", architecture::llama},   {"mistral", architecture::mistral},
    {"qwen2", architecture::qwen2},   {"qwen3", architecture::qwen3},
    {"gemma3", architecture::gemma3}, {"gemma3_text", architecture::gemma3},
    {"gpt2", architecture::gpt2}};

void check_activation(json_reader& keys,
                      const std::string& key,
                      const std::string& fallback,
                      std::initializer_list<const char*> allowed) {
  const std::string name = keys.text(key, fallback);
  for (const char* one : allowed) {
    if (name == one) return;
  }
  keys.fail(unsupported(key, "the activation '" + name + "' is not supported here"));
}

void check_whole_rotation(json_reader& keys, const std::string& key) {
  if (keys.real(key, 0, 1, 1) != 1) {
    keys.fail(unsupported(key, "rotating a part of the head is not supported"));
  }
}

// The rope table that `group` (rope_scaling, or a part of rope_parameters) describes.
void add_rope(
    json_reader& keys, const std::string& group, double base, int dims, hyperparameters& shape) {
  const std::string type = keys.text(group + ".rope_type", keys.text(group + ".type", "default"));
  double factor = 1;
  if (type == "linear") {
    factor = keys.real(group + ".factor", 1e-6, 1e6);
  } else if (type != "default" && type != "llama3") {
    keys.fail(unsupported(group + ".rope_type", "rope scaling '" + type + "' is not supported"));
  }
  check_whole_rotation(keys, group + ".partial_rotary_factor");
  rope_parameters rope = plain_rope(base, dims, factor);
  if (type == "llama3") {
    const llama3_scaling scaling{
        .factor = keys.real(group + ".factor", 1e-6, 1e6),
        .low_frequency_factor = keys.real(group + ".low_freq_factor", 1e-6, 1e6),
        .high_frequency_factor = keys.real(group + ".high_freq_factor", 1e-6, 1e6),
        .original_context = keys.real(group + ".original_max_position_embeddings", 1, context_max)};
    if (!keys.failed() && scaling.high_frequency_factor <= scaling.low_frequency_factor) {
      keys.fail(corrupt(group + ".high_freq_factor", "this must exceed low_freq_factor"));
    }
    if (!keys.failed()) scale_llama3(rope, scaling);
  }
  shape.ropes.push_back(std::move(rope));
}

void read_rope(json_reader& keys, hyperparameters& shape) {
  constexpr double low = 1e-3, high = 1e15;
  check_whole_rotation(keys, "partial_rotary_factor");
  const bool gemma3 = shape.arch == architecture::gemma3;
  const double fallback = gemma3 ? 1e6 : 1e4;
  const double local_fallback = keys.real("rope_local_base_freq", low, high, 1e4);
  if (keys.find("rope_parameters") == nullptr) {
    add_rope(keys, "rope_scaling", keys.real("rope_theta", low, high, fallback), shape.head_dim,
             shape);
    if (gemma3) shape.ropes.push_back(plain_rope(local_fallback, shape.head_dim, 1));
    return;
  }
  const bool split = keys.find("rope_parameters.full_attention") != nullptr;
  const std::string global = split ? "rope_parameters.full_attention" : "rope_parameters";
  add_rope(keys, global, keys.real(global + ".rope_theta", low, high, fallback), shape.head_dim,
           shape);
  if (!gemma3) return;
  const std::string local = "rope_parameters.sliding_attention";
  add_rope(keys, local, keys.real(local + ".rope_theta", low, high, local_fallback), shape.head_dim,
           shape);
}

// Which layers see a window only: layer_types where given, else the older keys.
void read_windows(json_reader& keys, hyperparameters& shape) {
  const bool gemma3 = shape.arch == architecture::gemma3;
  const bool qwen = shape.arch == architecture::qwen2 || shape.arch == architecture::qwen3;
  const bool enabled = !qwen || keys.flag("use_sliding_window", false);
  const int window = shape.arch == architecture::llama || !enabled
                         ? 0
                         : keys.integer("sliding_window", 0, context_max, gemma3 ? 4096 : 0);
  const int first = qwen ? keys.integer("max_window_layers", 0, 1 << 20, 28) : 0;
  const int pattern = keys.integer("sliding_window_pattern", 1, layers_max,
                                   keys.integer("_sliding_window_pattern", 1, layers_max, 6));
  uniform_attention(shape, 0);
  const json* types = keys.find("layer_types");
  if (types != nullptr && (!types->is_array() || types->size() != shape.attention.size())) {
    return keys.fail(corrupt("layer_types", "this must name a type for each layer"));
  }
  for (std::size_t layer = 0; layer < shape.attention.size(); ++layer) {
    bool local = gemma3 ? (layer + 1) % static_cast<std::size_t>(pattern) != 0
                        : layer >= static_cast<std::size_t>(first);
    if (types != nullptr) {
      const json& type = (*types)[layer];
      if (type != "full_attention" && type != "sliding_attention") {
        return keys.fail(
            unsupported("layer_types", "only full_attention and sliding_attention are known"));
      }
      local = type == "sliding_attention";
    }
    if (!local || window == 0) continue;
    shape.attention[layer] = {.window = window, .rope = gemma3 ? 1 : 0};
  }
}

void read_gpt2(json_reader& keys, hyperparameters& shape) {
  shape.width = keys.integer("n_embd", 1, width_max);
  shape.layers = keys.integer("n_layer", 1, layers_max);
  shape.heads = shape.kv_heads = keys.integer("n_head", 1, heads_max);
  shape.context = keys.integer("n_positions", 1, context_max,
                               keys.has("n_ctx") ? keys.integer("n_ctx", 1, context_max) : 1024);
  shape.ffn = keys.integer("n_inner", 1, ffn_max, 4 * shape.width);
  shape.norm_epsilon = static_cast<float>(keys.real("layer_norm_epsilon", 0, 1, 1e-5));
  shape.norm = norm_kind::layer;
  shape.activation = activation_kind::gelu_tanh;
  shape.learned_positions = true;
  shape.tied_head = keys.flag("tie_word_embeddings", true);
  check_activation(keys, "activation_function", "gelu_new", {"gelu_new", "gelu_pytorch_tanh"});
  if (!keys.flag("scale_attn_weights", true) ||
      keys.flag("scale_attn_by_inverse_layer_idx", false)) {
    keys.fail(unsupported("scale_attn_weights", "this way to scale attention is not supported"));
  }
  if (keys.failed()) return;
  if (shape.width % shape.heads != 0) {
    return keys.fail(corrupt("n_head", "the heads do not divide the width"));
  }
  shape.head_dim = shape.width / shape.heads;
  shape.query_scale = static_cast<float>(1 / std::sqrt(static_cast<double>(shape.head_dim)));
  uniform_attention(shape, 0);
}

void read_sizes(json_reader& keys, hyperparameters& shape) {
  const bool gemma3 = shape.arch == architecture::gemma3;
  const auto gemma_default = [&](int value) {
    return gemma3 ? std::optional(value) : std::nullopt;
  };
  shape.width = keys.integer("hidden_size", 1, width_max);
  shape.layers = keys.integer("num_hidden_layers", 1, layers_max);
  shape.heads = keys.integer("num_attention_heads", 1, heads_max, gemma_default(8));
  shape.kv_heads = keys.integer("num_key_value_heads", 1, heads_max, gemma3 ? 4 : shape.heads);
  shape.ffn = keys.integer("intermediate_size", 1, ffn_max);
  shape.context = keys.integer("max_position_embeddings", 1, context_max, gemma_default(131072));
  shape.norm_epsilon = static_cast<float>(keys.real("rms_norm_eps", 0, 1, 1e-6));
  if (keys.failed()) return;
  if (keys.has("head_dim") || gemma3) {
    shape.head_dim = keys.integer("head_dim", 1, head_dim_max, gemma_default(256));
  } else if (shape.width % shape.heads == 0 && shape.width / shape.heads <= head_dim_max) {
    shape.head_dim = shape.width / shape.heads;
  } else {
    keys.fail(corrupt("num_attention_heads", "the heads do not divide hidden_size"));
  }
  if (!keys.failed() && shape.head_dim % 2 != 0) {
    keys.fail(corrupt("head_dim", "a head must have an even number of values to rotate"));
  }
}

void read_gated(json_reader& keys, hyperparameters& shape) {
  const bool gemma3 = shape.arch == architecture::gemma3;
  read_sizes(keys, shape);
  if (keys.failed()) return;
  double query_width = shape.head_dim;
  if (gemma3) {
    query_width = keys.real("query_pre_attn_scalar", 1e-6, 1e9, 256.0);
    shape.activation = activation_kind::gelu_tanh_gate;
    shape.post_norms = true;
    shape.embedding_scale = static_cast<float>(std::sqrt(static_cast<double>(shape.width)));
    check_activation(keys, "hidden_activation", "gelu_pytorch_tanh", {"gelu_pytorch_tanh"});
    if (keys.flag("use_bidirectional_attention", false)) {
      keys.fail(unsupported("use_bidirectional_attention", "only causal attention is supported"));
    }
  } else {
    check_activation(keys, "hidden_act", "silu", {"silu", "swish"});
  }
  if (keys.flag("mlp_bias", false))
    keys.fail(unsupported("mlp_bias", "this bias is not supported"));
  shape.query_scale = static_cast<float>(1 / std::sqrt(query_width));
  shape.qk_norm = gemma3 || shape.arch == architecture::qwen3;
  shape.tied_head = keys.flag("tie_word_embeddings", gemma3);
  shape.attention_softcap = static_cast<float>(keys.real("attn_logit_softcapping", 0, 1e6, 0.0));
  shape.final_softcap = static_cast<float>(keys.real("final_logit_softcapping", 0, 1e6, 0.0));
  read_rope(keys, shape);
  if (!keys.failed()) read_windows(keys, shape);
}

}  // namespace

result<hyperparameters> hugging_face_shape(const json& config) {
  if (!config.is_object()) return corrupt("config.json", "this must be a JSON object");
  // A model that also sees images keeps the text network's numbers in text_config.
  const json* inner = member(config, "text_config");
  const json& source = inner != nullptr ? *inner : config;
  json_reader outer_keys(config), keys(source);
  const std::string type = keys.text("model_type", outer_keys.text("model_type"));
  FORETOKEN_TRY(outer_keys.outcome());
  FORETOKEN_TRY(keys.outcome());
  hyperparameters shape;
  bool known = false;
  for (const auto& [name, arch] : model_types) {
    if (type != name) continue;
    shape.arch = arch;
    known = true;
  }
  if (!known) {
    return unsupported("model_type",
                       "'" + type + "' is not one of llama, mistral, qwen2, qwen3, gemma3, gpt2");
  }
  if (member(source, "quantization_config") != nullptr) {
    return unsupported("quantization_config", "quantised safetensors are not supported");
  }
  shape.vocabulary =
      keys.integer("vocab_size", 1, vocabulary_max,
                   shape.arch == architecture::gemma3 ? std::optional(262208) : std::nullopt);
  if (shape.arch == architecture::gpt2) {
    read_gpt2(keys, shape);
  } else {
    read_gated(keys, shape);
  }
  FORETOKEN_TRY(keys.outcome());
  FORETOKEN_TRY(check_shape(shape));
  return shape;
}

std::string hugging_face_chat_template(const json& tokenizer_config) {
  const json* text = member(tokenizer_config, "chat_template");
  if (text == nullptr) return {};
  if (text->is_string()) return text->get<std::string>();
  if (!text->is_array()) return {};
  for (const json& named : *text) {  // several templates by name
    const json* name = member(named, "name");
    const json* body = member(named, "template");
    if (name != nullptr && *name == "default" && body != nullptr && body->is_string()) {
      return body->get<std::string>();
    }
  }
  return {};
}

}  // namespace foretoken::model
