// SPDX-License-Identifier: Apache-2.0
#include "cpu/weights.hpp"

#include <algorithm>
#include <cmath>
#include <string>
#include <thread>
#include <utility>

#include "cpu/dispatch.hpp"
#include "cpu/packed_weights.hpp"
#include "cpu/row_kernels.hpp"

namespace foretoken::cpu {
namespace {

using model::layer_tensors;
using model::tensor;

std::vector<float> floats(const tensor& source, bool plus_one = false) {
  if (source.empty()) return {};
  std::vector<float> out(static_cast<std::size_t>(source.rows * source.columns));
  model::dequantise(source, 0, source.rows, out.data());
  if (plus_one) {
    for (float& value : out) value += 1.0f;
  }
  return out;
}

std::vector<tensor> qkv_parts(const layer_tensors& from) {
  return {from.q, from.k, from.v};
}

std::vector<tensor> gate_up_parts(const layer_tensors& from) {
  if (from.gate.empty()) return {from.up};
  return {from.gate, from.up};
}

std::vector<float> joined_bias(const layer_tensors& from) {
  std::vector<float> out = floats(from.q_bias);
  for (const tensor* part : {&from.k_bias, &from.v_bias}) {
    const std::vector<float> more = floats(*part);
    out.insert(out.end(), more.begin(), more.end());
  }
  return out;
}

// The loader has checked the file; this guards the arithmetic here against a loader that did not.
status expect(const tensor& given, std::int64_t rows, std::int64_t columns, bool needed = true) {
  if (given.empty() && !needed) return {};
  if (given.rows == rows && given.columns == columns && !given.empty()) return {};
  return corrupt(given.name.empty() ? "tensor" : given.name,
                 "expected " + std::to_string(rows) + " x " + std::to_string(columns) + ", found " +
                     std::to_string(given.rows) + " x " + std::to_string(given.columns));
}

status check_layer(const layer_tensors& from, const model::hyperparameters& shape) {
  const std::int64_t q = std::int64_t{shape.heads} * shape.head_dim;
  const std::int64_t kv = std::int64_t{shape.kv_heads} * shape.head_dim;
  const bool layered = shape.norm == model::norm_kind::layer;
  FORETOKEN_TRY(expect(from.attention_norm, 1, shape.width));
  FORETOKEN_TRY(expect(from.attention_norm_bias, 1, shape.width, layered));
  FORETOKEN_TRY(expect(from.q, q, shape.width));
  FORETOKEN_TRY(expect(from.k, kv, shape.width));
  FORETOKEN_TRY(expect(from.v, kv, shape.width));
  FORETOKEN_TRY(expect(from.q_bias, 1, q, false));
  FORETOKEN_TRY(expect(from.k_bias, 1, kv, !from.q_bias.empty()));
  FORETOKEN_TRY(expect(from.v_bias, 1, kv, !from.q_bias.empty()));
  FORETOKEN_TRY(expect(from.q_norm, 1, shape.head_dim, shape.qk_norm));
  FORETOKEN_TRY(expect(from.k_norm, 1, shape.head_dim, shape.qk_norm));
  FORETOKEN_TRY(expect(from.o, shape.width, q));
  FORETOKEN_TRY(expect(from.o_bias, 1, shape.width, false));
  FORETOKEN_TRY(expect(from.attention_post_norm, 1, shape.width, shape.post_norms));
  FORETOKEN_TRY(expect(from.ffn_norm, 1, shape.width));
  FORETOKEN_TRY(expect(from.ffn_norm_bias, 1, shape.width, layered));
  FORETOKEN_TRY(expect(from.gate, shape.ffn, shape.width, has_gate(shape)));
  FORETOKEN_TRY(expect(from.up, shape.ffn, shape.width));
  FORETOKEN_TRY(expect(from.up_bias, 1, shape.ffn, false));
  FORETOKEN_TRY(expect(from.down, shape.width, shape.ffn));
  FORETOKEN_TRY(expect(from.down_bias, 1, shape.width, false));
  return expect(from.ffn_post_norm, 1, shape.width, shape.post_norms);
}

status check_model(const model::model_file& file) {
  const model::hyperparameters& shape = file.shape;
  if (shape.head_dim > head_dim_max || shape.head_dim < 1) {
    return unsupported("head_dim", "heads of " + std::to_string(shape.head_dim) +
                                       " values; at most " + std::to_string(head_dim_max));
  }
  if (shape.kv_heads < 1 || shape.heads % shape.kv_heads != 0) {
    return corrupt("kv_heads", "does not divide the number of heads");
  }
  if (file.tensors.layers.size() != static_cast<std::size_t>(shape.layers) ||
      shape.attention.size() != file.tensors.layers.size()) {
    return corrupt("layers", "the file's layers and its tensors differ in number");
  }
  FORETOKEN_TRY(expect(file.tensors.embedding, shape.vocabulary, shape.width));
  FORETOKEN_TRY(expect(file.tensors.head, shape.vocabulary, shape.width));
  FORETOKEN_TRY(expect(file.tensors.final_norm, 1, shape.width));
  FORETOKEN_TRY(
      expect(file.tensors.positions, shape.context, shape.width, shape.learned_positions));
  for (const layer_tensors& layer : file.tensors.layers) FORETOKEN_TRY(check_layer(layer, shape));
  return {};
}

// Whether greedy rows may find their token by a pass with inputs of 8 bits.
bool bounds_head(const tensor& head, const options& chosen) {
  return chosen.precision != numerics::float32 && model::block_values(head.type) > 1;
}

std::size_t norm_count(const tensor& head) {
  return static_cast<std::size_t>((head.rows + tile_rows - 1) / tile_rows) * tile_rows;
}

// Makes weights from a file's tensors; of an outline, only their memory, listed in `blanks`.
class packer {
 public:
  packer(const model::model_file& file, const options& chosen, const model::load_progress& progress)
      : file_(file), chosen_(chosen), progress_(progress), threads_(thread_count(chosen)) {}
  blocks blanks;  // in the order of packed_blocks()
  thread_pool& threads() noexcept { return threads_; }

  status pack_into(std::unique_ptr<const linear>& target,
                   const std::vector<tensor>& parts,
                   bool interleave) {
    if (file_.outline) return keep_blank(target, linear::lay_out(parts, interleave, chosen_));
    auto packed = linear::pack(parts, interleave, chosen_, threads_);
    if (!packed) return std::move(packed).error();
    target = std::move(packed).value();
    for (const tensor& part : parts) done_ += part.bytes.size();
    if (progress_) progress_(std::min(done_, total()), total());
    return {};
  }

  status pack_layer(const layer_tensors& from, layer_weights& to) {
    const bool plus_one = file_.tensors.norm_plus_one;
    to.attention_norm = floats(from.attention_norm, plus_one);
    to.attention_norm_bias = floats(from.attention_norm_bias);
    to.qkv_bias = joined_bias(from);
    to.q_norm = floats(from.q_norm, plus_one);
    to.k_norm = floats(from.k_norm, plus_one);
    to.o_bias = floats(from.o_bias);
    to.attention_post_norm = floats(from.attention_post_norm, plus_one);
    to.ffn_norm = floats(from.ffn_norm, plus_one);
    to.ffn_norm_bias = floats(from.ffn_norm_bias);
    to.up_bias = floats(from.up_bias);
    to.down_bias = floats(from.down_bias);
    to.ffn_post_norm = floats(from.ffn_post_norm, plus_one);
    FORETOKEN_TRY(pack_into(to.qkv, qkv_parts(from), false));
    FORETOKEN_TRY(pack_into(to.o, {from.o}, false));
    FORETOKEN_TRY(pack_into(to.gate_up, gate_up_parts(from), interleaves(file_.shape)));
    FORETOKEN_TRY(pack_into(to.down, {from.down}, false));
    if (!chosen_.last_reader) return {};
    for (const tensor* read :
         {&from.q, &from.k, &from.v, &from.o, &from.gate, &from.up, &from.down})
      file_.forget(*read);
    return {};
  }

  // The embedding stays as stored: one row a token is dequantised.
  void keep_rows(const tensor& source, tensor& target, std::vector<std::byte>& bytes) {
    if (file_.outline) {
      bytes.resize(source.bytes.size());
      blanks.emplace_back(bytes);
    } else {
      bytes.assign(source.bytes.begin(), source.bytes.end());
    }
    target = source;
    target.bytes = bytes;
  }

  status pack_draft(std::unique_ptr<const linear>& target, const tensor& head) {
    if (!can_draft(head, chosen_)) return {};
    if (file_.outline) return keep_blank(target, linear::lay_out_draft(head, chosen_));
    auto packed = linear::pack_draft(head, chosen_, threads_);
    if (!packed) return std::move(packed).error();
    target = std::move(packed).value();
    return {};
  }

  // Lengths of the head's rows: bounds of what an error of the inputs does to a logit.
  std::vector<float> row_norms(const tensor& head) {
    std::vector<float> out(norm_count(head));
    if (file_.outline) {
      blanks.push_back(std::as_writable_bytes(std::span(out)));
      return out;
    }
    threads_.run(static_cast<int>(out.size() / tile_rows), [&](int tile, int) {
      std::vector<float> row(static_cast<std::size_t>(head.columns));
      const std::int64_t first = std::int64_t{tile} * tile_rows;
      for (std::int64_t n = first; n < std::min(head.rows, first + tile_rows); ++n) {
        model::dequantise(head, n, 1, row.data());
        double squares = 0;
        for (const float value : row) squares += static_cast<double>(value) * value;
        out[static_cast<std::size_t>(n)] = static_cast<float>(1.00001 * std::sqrt(squares));
      }
    });
    return out;
  }

 private:
  status keep_blank(std::unique_ptr<const linear>& target, result<linear::blank> blank) {
    if (!blank) return std::move(blank).error();
    target = std::move(blank->matrix);
    blanks.push_back(blank->bytes);
    return {};
  }
  std::uint64_t total() const noexcept { return std::max<std::uint64_t>(file_.file_bytes, 1); }
  const model::model_file& file_;
  const options& chosen_;
  const model::load_progress& progress_;
  thread_pool threads_;
  std::uint64_t done_ = 0;
};

}  // namespace

input_parts weights::layers_read() const noexcept {
  input_parts all;
  for (const layer_weights& layer : layers) {
    all = all | layer.qkv->reads() | layer.o->reads() | layer.gate_up->reads();
  }
  return all;
}

input_parts weights::down_reads() const noexcept {
  input_parts all;
  for (const layer_weights& layer : layers) all = all | layer.down->reads();
  return all;
}

bool has_gate(const model::hyperparameters& shape) noexcept {
  return shape.activation != model::activation_kind::gelu_tanh;
}

bool interleaves(const model::hyperparameters& shape) noexcept {
  return has_gate(shape) && shape.ffn % 32 == 0;
}

int thread_count(const options& chosen) noexcept {
  if (chosen.threads > 0) return chosen.threads;
  const int cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  return cores <= 2 ? cores : cores - 1;
}

const_blocks packed_blocks(const weights& from) {
  const_blocks out;
  const auto add = [&](std::span<const std::byte> bytes) { out.push_back(bytes); };
  add(from.embedding_bytes);
  add(from.position_bytes);
  for (const layer_weights& layer : from.layers) {
    for (const auto* matrix : {&layer.qkv, &layer.o, &layer.gate_up, &layer.down}) {
      add((*matrix)->packed());
    }
  }
  add(from.head->packed());
  if (from.draft) add(from.draft->packed());
  add(std::as_bytes(std::span(from.head_norms)));
  return out;
}

result<std::shared_ptr<const weights>> prepare_weights(const model::model_file& file,
                                                       const options& chosen,
                                                       const model::load_progress& progress) {
  auto path = choose_isa(chosen.path);
  if (!path) return std::move(path).error();
  FORETOKEN_TRY(check_model(file));
  auto made = std::make_shared<weights>();
  made->shape = file.shape;
  made->precision = chosen.precision;
  made->path = *path;
  made->floats = chosen.floats;
  made->interleaved = interleaves(file.shape);
  const auto digest = digest_to_keep(file, chosen.packed);  // before anything is forgotten
  packer pack(file, chosen, progress);
  pack.keep_rows(file.tensors.embedding, made->embedding, made->embedding_bytes);
  pack.keep_rows(file.tensors.positions, made->positions, made->position_bytes);
  made->final_norm = floats(file.tensors.final_norm, file.tensors.norm_plus_one);
  made->final_norm_bias = floats(file.tensors.final_norm_bias);
  made->layers.resize(file.tensors.layers.size());
  for (std::size_t i = 0; i < made->layers.size(); ++i) {
    FORETOKEN_TRY(pack.pack_layer(file.tensors.layers[i], made->layers[i]));
  }
  FORETOKEN_TRY(pack.pack_into(made->head, {file.tensors.head}, false));
  FORETOKEN_TRY(pack.pack_draft(made->draft, file.tensors.head));
  if (bounds_head(file.tensors.head, chosen)) made->head_norms = pack.row_norms(file.tensors.head);
  if (file.outline) {
    if (made->head_norms.empty()) pack.blanks.emplace_back();
    FORETOKEN_TRY(read_packed(file, *made, chosen.packed, pack.blanks, pack.threads()));
  } else if (digest) {
    keep_packed(*file.source, *digest, *made, chosen.packed, pack.threads());
  }
  return std::shared_ptr<const weights>(std::move(made));
}

std::uint64_t weight_bytes(const model::model_file& file, const options& chosen) {
  const auto packed = [&](const std::vector<tensor>& parts, bool interleave = false) {
    return packed_bytes(parts, chosen, interleave);
  };
  const auto as_floats = [](const tensor& vector) {
    return static_cast<std::uint64_t>(vector.rows * vector.columns) * sizeof(float);
  };
  std::uint64_t bytes = file.tensors.embedding.bytes.size() + file.tensors.positions.bytes.size();
  const tensor& head = file.tensors.head;
  bytes += packed({head});
  if (can_draft(head, chosen)) bytes += draft_bytes(head);
  if (bounds_head(head, chosen)) bytes += norm_count(head) * sizeof(float);
  bytes += as_floats(file.tensors.final_norm) + as_floats(file.tensors.final_norm_bias);
  for (const layer_tensors& layer : file.tensors.layers) {
    bytes += packed(qkv_parts(layer)) + packed({layer.o}) +
             packed(gate_up_parts(layer), interleaves(file.shape)) + packed({layer.down});
    // Norms and biases as floats.
    for (const tensor* vector :
         {&layer.attention_norm, &layer.attention_norm_bias, &layer.q_bias, &layer.k_bias,
          &layer.v_bias, &layer.q_norm, &layer.k_norm, &layer.o_bias, &layer.attention_post_norm,
          &layer.ffn_norm, &layer.ffn_norm_bias, &layer.up_bias, &layer.down_bias,
          &layer.ffn_post_norm}) {
      bytes += as_floats(*vector);
    }
  }
  return bytes;
}

}  // namespace foretoken::cpu
