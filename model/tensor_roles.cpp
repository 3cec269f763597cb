// SPDX-License-Identifier: Apache-2.0
#include "model/tensor_roles.hpp"

#include <array>
#include <cstring>
#include <set>

#include "base/checked.hpp"

namespace foretoken::model {
namespace {

// Names below a layer's prefix. A bias is the weight's name with another ending.
struct layer_names {
  const char *attention_norm, *q, *k, *v, *q_norm, *k_norm, *o, *attention_post_norm;
  const char *ffn_norm, *gate, *up, *down, *ffn_post_norm;
};
constexpr layer_names gguf_names{
    "attn_norm",    "attn_q",      "attn_k",      "attn_v",
    "attn_q_norm",  "attn_k_norm", "attn_output", "post_attention_norm",
    "ffn_norm",     "ffn_gate",    "ffn_up",      "ffn_down",
    "post_ffw_norm"};
constexpr layer_names hugging_face_names{"input_layernorm",
                                         "self_attn.q_proj",
                                         "self_attn.k_proj",
                                         "self_attn.v_proj",
                                         "self_attn.q_norm",
                                         "self_attn.k_norm",
                                         "self_attn.o_proj",
                                         "",
                                         "post_attention_layernorm",
                                         "mlp.gate_proj",
                                         "mlp.up_proj",
                                         "mlp.down_proj",
                                         ""};
constexpr layer_names gemma3_hugging_face_names{
    "input_layernorm",           "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
    "self_attn.q_norm",          "self_attn.k_norm", "self_attn.o_proj", "post_attention_layernorm",
    "pre_feedforward_layernorm", "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj",
    "post_feedforward_layernorm"};

std::string shape_text(const std::vector<std::uint64_t>& shape) {
  std::string text = "[";
  for (const auto extent : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(extent);
  return text + "]";
}

// Takes tensors out of a store, remembers which were used and the first thing that was wrong.
class picker {
 public:
  picker(const tensor_store& store, const hyperparameters& shape) : store_(store), shape_(shape) {}

  bool has(const std::string& name) const { return store_.find(name) != nullptr; }
  tensor matrix(const std::string& name, int rows, int columns) {
    return take(name, {static_cast<std::uint64_t>(rows), static_cast<std::uint64_t>(columns)}, rows,
                columns);
  }
  tensor vector(const std::string& name, int values) {
    return take(name, {static_cast<std::uint64_t>(values)}, 1, values);
  }
  // A norm's weight, and its bias when the norms of this network have one.
  void norm(const std::string& name, int values, tensor& weight, tensor* bias) {
    weight = vector(name + ".weight", values);
    if (bias != nullptr && shape_.norm == norm_kind::layer) *bias = vector(name + ".bias", values);
  }
  void linear(const std::string& name,
              int rows,
              int columns,
              tensor& weight,
              tensor& bias,
              bool with_bias) {
    weight = matrix(name + ".weight", rows, columns);
    if (with_bias) bias = vector(name + ".bias", rows);
  }
  void fail(error failure) {
    if (!failure_) failure_ = std::move(failure);
  }
  bool failed() const noexcept { return failure_.has_value(); }
  const std::optional<error>& failure() const noexcept { return failure_; }
  // A tensor below `prefix` that nothing asked for, and that `harmless` does not know, means a
  // network that is not the one we would run.
  template <class Harmless>
  status refuse_unused(const std::string& prefix, Harmless harmless) const {
    for (const auto& [name, stored] : store_.all()) {
      if (used_.contains(name) || !name.starts_with(prefix) || harmless(name)) continue;
      return unsupported(name, "this tensor is not part of the architecture the file names");
    }
    return {};
  }

 private:
  tensor take(const std::string& name,
              const std::vector<std::uint64_t>& wanted,
              int rows,
              int columns) {
    const stored_tensor* stored = store_.find(name);
    if (stored == nullptr) {
      fail(corrupt(name, "this tensor is missing"));
      return {};
    }
    used_.insert(name);
    if (!stored->type) {
      fail(unsupported(name, "tensors of type " + stored->type_name + " cannot be computed with"));
      return {};
    }
    if (stored->shape != wanted) {
      fail(corrupt(name, "the shape is " + shape_text(stored->shape) + ", not " +
                             shape_text(wanted) + " as the other numbers say"));
      return {};
    }
    return {name, *stored->type, rows, columns, false, stored->bytes};
  }

  const tensor_store& store_;
  const hyperparameters& shape_;
  std::set<std::string, std::less<>> used_;
  std::optional<error> failure_;
};

tensor row_range(const tensor& whole, int first, int rows, const char* part) {
  tensor out = whole;
  if (whole.empty()) return out;
  const std::size_t row_bytes = whole.bytes.size() / static_cast<std::size_t>(whole.rows);
  out.name += part;
  out.rows = rows;
  out.bytes = whole.bytes.subspan(static_cast<std::size_t>(first) * row_bytes,
                                  static_cast<std::size_t>(rows) * row_bytes);
  return out;
}

tensor value_range(const tensor& whole, int first, int values, const char* part) {
  tensor out = whole;
  if (whole.empty()) return out;
  const auto per_block = static_cast<std::size_t>(block_values(whole.type));
  if (static_cast<std::size_t>(first) % per_block != 0 ||
      static_cast<std::size_t>(values) % per_block != 0) {
    return {};  // a bias in blocks that straddle q, k and v; refused by the caller
  }
  const std::size_t block = block_bytes(whole.type);
  out.name += part;
  out.columns = values;
  out.bytes = whole.bytes.subspan(static_cast<std::size_t>(first) / per_block * block,
                                  static_cast<std::size_t>(values) / per_block * block);
  return out;
}

// gpt2 keeps q, k and v in one weight of 3 * width rows.
void split_fused(picker& pick,
                 const hyperparameters& shape,
                 const tensor& weight,
                 const tensor& bias,
                 layer_tensors& out) {
  const int n = shape.width;
  out.q = row_range(weight, 0, n, " (q)");
  out.k = row_range(weight, n, n, " (k)");
  out.v = row_range(weight, 2 * n, n, " (v)");
  out.q_bias = value_range(bias, 0, n, " (q)");
  out.k_bias = value_range(bias, n, n, " (k)");
  out.v_bias = value_range(bias, 2 * n, n, " (v)");
  if (!pick.failed() && out.q_bias.empty()) {
    pick.fail(unsupported(bias.name, "a quantised bias cannot be split"));
  }
}

layer_tensors take_layer(picker& pick,
                         const hyperparameters& shape,
                         const std::string& prefix,
                         const layer_names& names) {
  layer_tensors out;
  const int q_rows = shape.heads * shape.head_dim, kv_rows = shape.kv_heads * shape.head_dim;
  const bool qkv_bias = shape.arch == architecture::qwen2 || pick.has(prefix + names.q + ".bias");
  pick.norm(prefix + names.attention_norm, shape.width, out.attention_norm, nullptr);
  pick.linear(prefix + names.q, q_rows, shape.width, out.q, out.q_bias, qkv_bias);
  pick.linear(prefix + names.k, kv_rows, shape.width, out.k, out.k_bias, qkv_bias);
  pick.linear(prefix + names.v, kv_rows, shape.width, out.v, out.v_bias, qkv_bias);
  pick.linear(prefix + names.o, shape.width, q_rows, out.o, out.o_bias,
              pick.has(prefix + names.o + ".bias"));
  if (shape.qk_norm) {
    pick.norm(prefix + names.q_norm, shape.head_dim, out.q_norm, nullptr);
    pick.norm(prefix + names.k_norm, shape.head_dim, out.k_norm, nullptr);
  }
  if (shape.post_norms) {
    pick.norm(prefix + names.attention_post_norm, shape.width, out.attention_post_norm, nullptr);
    pick.norm(prefix + names.ffn_post_norm, shape.width, out.ffn_post_norm, nullptr);
  }
  pick.norm(prefix + names.ffn_norm, shape.width, out.ffn_norm, nullptr);
  out.gate = pick.matrix(prefix + names.gate + ".weight", shape.ffn, shape.width);
  out.up = pick.matrix(prefix + names.up + ".weight", shape.ffn, shape.width);
  out.down = pick.matrix(prefix + names.down + ".weight", shape.width, shape.ffn);
  return out;
}

layer_tensors take_gpt2_gguf_layer(picker& pick,
                                   const hyperparameters& shape,
                                   const std::string& prefix) {
  layer_tensors out;
  tensor weight, bias;
  pick.norm(prefix + "attn_norm", shape.width, out.attention_norm, &out.attention_norm_bias);
  pick.linear(prefix + "attn_qkv", 3 * shape.width, shape.width, weight, bias, true);
  split_fused(pick, shape, weight, bias, out);
  pick.linear(prefix + "attn_output", shape.width, shape.width, out.o, out.o_bias, true);
  pick.norm(prefix + "ffn_norm", shape.width, out.ffn_norm, &out.ffn_norm_bias);
  pick.linear(prefix + "ffn_up", shape.ffn, shape.width, out.up, out.up_bias, true);
  pick.linear(prefix + "ffn_down", shape.width, shape.ffn, out.down, out.down_bias, true);
  return out;
}

// The tensor with rows and columns exchanged, in memory of our own.
tensor transposed_copy(picker& pick, const tensor& source, std::vector<aligned_bytes>& owned) {
  if (source.empty()) return {};
  if (block_values(source.type) != 1) {
    pick.fail(unsupported(source.name, "a quantised weight cannot be transposed"));
    return {};
  }
  auto memory = aligned_bytes::make(source.bytes.size());
  if (!memory) {
    pick.fail({memory.error().code, memory.error().message, source.name});
    return {};
  }
  const std::size_t size = block_bytes(source.type);
  const auto rows = static_cast<std::size_t>(source.rows);
  const auto columns = static_cast<std::size_t>(source.columns);
  std::byte* to = memory->bytes().data();
  for (std::size_t column = 0; column < columns; ++column) {
    for (std::size_t row = 0; row < rows; ++row, to += size) {
      std::memcpy(to, source.bytes.data() + (row * columns + column) * size, size);
    }
  }
  owned.push_back(std::move(*memory));
  return {source.name, source.type, source.columns, source.rows, false, owned.back().bytes()};
}

layer_tensors take_gpt2_hugging_face_layer(picker& pick,
                                           const hyperparameters& shape,
                                           const std::string& prefix,
                                           std::vector<aligned_bytes>& owned) {
  const auto conv = [&](const char* name, int rows, int columns, tensor& weight, tensor& bias) {
    weight = transposed_copy(pick, pick.matrix(prefix + name + ".weight", columns, rows), owned);
    bias = pick.vector(prefix + name + ".bias", rows);
  };
  layer_tensors out;
  tensor weight, bias;
  pick.norm(prefix + "ln_1", shape.width, out.attention_norm, &out.attention_norm_bias);
  conv("attn.c_attn", 3 * shape.width, shape.width, weight, bias);
  split_fused(pick, shape, weight, bias, out);
  conv("attn.c_proj", shape.width, shape.width, out.o, out.o_bias);
  pick.norm(prefix + "ln_2", shape.width, out.ffn_norm, &out.ffn_norm_bias);
  conv("mlp.c_fc", shape.ffn, shape.width, out.up, out.up_bias);
  conv("mlp.c_proj", shape.width, shape.ffn, out.down, out.down_bias);
  return out;
}

// What old checkpoints keep of a layer beside its weights: rotations, and gpt2's causal masks.
bool is_saved_constant(const std::string& name) {
  return name.ends_with(".rotary_emb.inv_freq") || name.ends_with(".attn.bias") ||
         name.ends_with(".attn.masked_bias");
}

std::string layer_prefix(const std::string& before, int layer) {
  return before + std::to_string(layer) + ".";
}

}  // namespace

result<model_tensors> assemble_gguf(const tensor_store& store, const hyperparameters& shape) {
  picker pick(store, shape);
  model_tensors out;
  out.embedding = pick.matrix("token_embd.weight", shape.vocabulary, shape.width);
  if (shape.learned_positions) {
    out.positions = pick.matrix("position_embd.weight", shape.context, shape.width);
  }
  for (int layer = 0; layer < shape.layers && !pick.failed(); ++layer) {
    const std::string prefix = layer_prefix("blk.", layer);
    out.layers.push_back(shape.arch == architecture::gpt2
                             ? take_gpt2_gguf_layer(pick, shape, prefix)
                             : take_layer(pick, shape, prefix, gguf_names));
  }
  pick.norm("output_norm", shape.width, out.final_norm, &out.final_norm_bias);
  out.head =
      shape.tied_head ? out.embedding : pick.matrix("output.weight", shape.vocabulary, shape.width);
  if (pick.failure()) return *pick.failure();
  FORETOKEN_TRY(
      pick.refuse_unused("", [](const std::string& name) { return name == "rope_freqs.weight"; }));
  return out;
}

result<model_tensors> assemble_hugging_face(const tensor_store& store,
                                            const hyperparameters& shape,
                                            std::vector<aligned_bytes>& owned) {
  picker pick(store, shape);
  model_tensors out;
  out.norm_plus_one = shape.arch == architecture::gemma3;
  const bool gpt2 = shape.arch == architecture::gpt2;
  const std::string embedding = gpt2 ? "wte.weight" : "embed_tokens.weight";
  std::string prefix;
  for (const char* candidate :
       {"model.", "transformer.", "language_model.model.", "model.language_model."}) {
    if (pick.has(candidate + embedding)) prefix = candidate;
  }
  out.embedding = pick.matrix(prefix + embedding, shape.vocabulary, shape.width);
  if (gpt2) out.positions = pick.matrix(prefix + "wpe.weight", shape.context, shape.width);
  const layer_names& names =
      shape.arch == architecture::gemma3 ? gemma3_hugging_face_names : hugging_face_names;
  const std::string layers = prefix + (gpt2 ? "h." : "layers.");
  for (int layer = 0; layer < shape.layers && !pick.failed(); ++layer) {
    out.layers.push_back(
        gpt2 ? take_gpt2_hugging_face_layer(pick, shape, layer_prefix(layers, layer), owned)
             : take_layer(pick, shape, layer_prefix(layers, layer), names));
  }
  pick.norm(prefix + (gpt2 ? "ln_f" : "norm"), shape.width, out.final_norm, &out.final_norm_bias);
  const std::string head = pick.has("language_model.lm_head.weight")
                               ? "language_model.lm_head.weight"
                               : "lm_head.weight";
  out.head = shape.tied_head ? out.embedding : pick.matrix(head, shape.vocabulary, shape.width);
  if (pick.failure()) return *pick.failure();
  FORETOKEN_TRY(pick.refuse_unused(layers, is_saved_constant));  // other parts may see images
  return out;
}

}  // namespace foretoken::model
