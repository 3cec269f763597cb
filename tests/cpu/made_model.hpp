// SPDX-License-Identifier: Apache-2.0
#pragma once
// A small random model in memory, and a device that remembers every row's raw logits.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "base/half.hpp"
#include "cpu/dispatch.hpp"
#include "cpu/step.hpp"
#include "model/forward.hpp"
#include "model/model_file.hpp"

namespace foretoken::test {

// How the matrices are stored: as floats, or in blocks of 32 codes with a scale (those whose
// columns are whole blocks).
enum class stored { floats, q8_0, q4_0 };

class made_model final : public model::model_file {
 public:
  explicit made_model(model::hyperparameters given, stored how = stored::floats, unsigned seed = 1)
      : how_(how), random_(seed) {
    shape = std::move(given);
    const int q = shape.heads * shape.head_dim;
    const int kv = shape.kv_heads * shape.head_dim;
    const bool layered = shape.norm == model::norm_kind::layer;
    tensors.embedding = make("embedding", shape.vocabulary, shape.width, 1);
    tensors.head = tensors.embedding;
    if (shape.learned_positions)
      tensors.positions = make("positions", shape.context, shape.width, 1);
    tensors.final_norm = make("final_norm", 1, shape.width, 1);
    if (layered) tensors.final_norm_bias = make("final_norm_bias", 1, shape.width, 1);
    for (int i = 0; i < shape.layers; ++i) {
      model::layer_tensors layer;
      layer.attention_norm = make("attention_norm", 1, shape.width, 1);
      layer.ffn_norm = make("ffn_norm", 1, shape.width, 1);
      layer.q = make("q", q, shape.width);
      layer.k = make("k", kv, shape.width);
      layer.v = make("v", kv, shape.width);
      layer.o = make("o", shape.width, q);
      const bool gated = shape.activation != model::activation_kind::gelu_tanh;
      if (gated) layer.gate = make("gate", shape.ffn, shape.width);
      layer.up = make("up", shape.ffn, shape.width);
      layer.down = make("down", shape.width, shape.ffn);
      if (layered) {
        layer.attention_norm_bias = make("attention_norm_bias", 1, shape.width, 1);
        layer.ffn_norm_bias = make("ffn_norm_bias", 1, shape.width, 1);
        layer.q_bias = make("q_bias", 1, q, 1);
        layer.k_bias = make("k_bias", 1, kv, 1);
        layer.v_bias = make("v_bias", 1, kv, 1);
        layer.o_bias = make("o_bias", 1, shape.width, 1);
        layer.up_bias = make("up_bias", 1, shape.ffn, 1);
        layer.down_bias = make("down_bias", 1, shape.width, 1);
      }
      if (shape.qk_norm) {
        layer.q_norm = make("q_norm", 1, shape.head_dim, 1);
        layer.k_norm = make("k_norm", 1, shape.head_dim, 1);
      }
      if (shape.post_norms) {
        layer.attention_post_norm = make("attention_post_norm", 1, shape.width, 1);
        layer.ffn_post_norm = make("ffn_post_norm", 1, shape.width, 1);
      }
      tensors.layers.push_back(std::move(layer));
    }
    tensors.norm_plus_one = shape.post_norms;
  }

  std::vector<token> tokens(int count) {
    std::vector<token> out;
    for (int i = 0; i < count; ++i) {
      out.push_back(static_cast<token>(random_() % static_cast<unsigned>(shape.vocabulary)));
    }
    return out;
  }
  // Multiplies one tensor's stored values, for planting large ones.
  static void scale(model::tensor& target, float factor) {
    auto* values = const_cast<std::byte*>(target.bytes.data());
    for (std::size_t i = 0; i < target.bytes.size(); i += sizeof(float)) {
      float value = 0;
      std::memcpy(&value, values + i, sizeof value);
      value *= factor;
      std::memcpy(values + i, &value, sizeof value);
    }
  }

 private:
  model::tensor make(const char* name, int rows, int columns, double spread = 0) {
    if (spread == 0) spread = 1.5 / std::sqrt(columns);
    auto& values =
        storage_.emplace_back(static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns));
    std::normal_distribution<float> normal(0, static_cast<float>(spread));
    for (float& value : values) value = normal(random_);
    model::tensor out;
    out.name = name;
    out.rows = rows;
    out.columns = columns;
    out.bytes = std::as_bytes(std::span(values));
    if (how_ != stored::floats && rows > 1 && columns % 32 == 0) quantise(out, values);
    return out;
  }
  void quantise(model::tensor& target, const std::vector<float>& values) {
    const bool whole = how_ == stored::q8_0;
    const float most = whole ? 127 : 7;
    auto& blocks = blocks_.emplace_back();
    for (std::size_t first = 0; first < values.size(); first += 32) {
      float largest = 1e-6f;
      for (std::size_t i = first; i < first + 32; ++i)
        largest = std::max(largest, std::abs(values[i]));
      const std::uint16_t scale = float_to_f16(largest / most);
      blocks.push_back(static_cast<std::byte>(scale & 255u));
      blocks.push_back(static_cast<std::byte>(scale >> 8));
      const auto code = [&](std::size_t i) {
        const float quant = std::nearbyint(values[first + i] / f16_to_float(scale));
        return static_cast<int>(std::clamp(quant, -most, most));
      };
      for (std::size_t i = 0; i < (whole ? 32u : 16u); ++i) {
        const int byte = whole ? code(i) : code(i) + 8 + (code(i + 16) + 8) * 16;
        blocks.push_back(static_cast<std::byte>(byte));
      }
    }
    target.type = whole ? model::dtype::q8_0 : model::dtype::q4_0;
    target.bytes = blocks;
  }
  stored how_;
  std::mt19937 random_;
  std::deque<std::vector<float>> storage_;
  std::deque<std::vector<std::byte>> blocks_;
};

// Two layers of a llama, with a vocabulary that is no whole tile.
inline model::hyperparameters small_shape() {
  model::hyperparameters shape;
  shape.layers = 2;
  shape.width = 64;
  shape.heads = 6;
  shape.kv_heads = 2;
  shape.head_dim = 24;
  shape.ffn = 96;
  shape.vocabulary = 130;
  shape.context = 512;
  shape.norm_epsilon = 1e-5f;
  shape.query_scale = 0.2f;
  model::rope_parameters rope;
  for (int i = 0; i < 12; ++i) rope.frequency.push_back(std::pow(0.4f, static_cast<float>(i)));
  shape.ropes = {rope};
  shape.attention = {{0, 0}, {0, 0}};
  return shape;
}

inline model::micro_batch batch_of(std::vector<model::slice> slices) {
  model::micro_batch batch;
  batch.slices = std::move(slices);
  return batch;
}

using row_logits = std::vector<std::vector<float>>;

// A device whose head rows are all wanted, and which hands out their raw logits.
class device {
 public:
  device(const model::model_file& file, const cpu::options& chosen) {
    auto made = cpu::prepare_weights(file, chosen);
    REQUIRE_MESSAGE(made, (made ? "" : to_string(made.error())));
    weights_ = *made;
    again(chosen);
  }
  void again(const cpu::options& chosen) {
    auto ops = cpu::make_ops(weights_, chosen);
    REQUIRE(ops);
    ops_ = std::move(*ops);
    auto& step = static_cast<cpu::step&>(*ops_);
    step.probe_logits(
        [](void* context, int, std::span<const float> logits) {
          static_cast<row_logits*>(context)->emplace_back(logits.begin(), logits.end());
        },
        &seen_);
  }
  model::ops& ops() { return *ops_; }
  std::shared_ptr<const cpu::weights> weights() const { return weights_; }

  // Runs a batch and returns the logits of its wanted rows, in row order.
  row_logits run(const model::micro_batch& batch) {
    seen_.clear();
    auto out = model::forward(*ops_, batch);
    REQUIRE_MESSAGE(out, (out ? "" : to_string(out.error())));
    return std::move(seen_);
  }
  // The whole text in chunks of `chunk` rows; logits of every position.
  row_logits read(const std::vector<token>& text, const std::vector<page_id>& pages, int chunk) {
    row_logits all;
    for (std::size_t at = 0; at < text.size(); at += static_cast<std::size_t>(chunk)) {
      const auto part = run(batch_of({slice(text, pages, at, static_cast<std::size_t>(chunk))}));
      all.insert(all.end(), part.begin(), part.end());
    }
    return all;
  }
  // Tokens [at, at + count) of a text; every row is scored.
  static model::slice slice(const std::vector<token>& text,
                            const std::vector<page_id>& pages,
                            std::size_t at,
                            std::size_t count) {
    const std::size_t end = std::min(text.size(), at + count);
    model::slice one;
    one.position = static_cast<int>(at);
    one.tokens.assign(text.begin() + static_cast<std::ptrdiff_t>(at),
                      text.begin() + static_cast<std::ptrdiff_t>(end));
    one.pages = pages;
    one.score_all = true;
    one.score_next = end < text.size() ? text[end] : 0;
    return one;
  }

 private:
  std::shared_ptr<const cpu::weights> weights_;
  std::unique_ptr<model::ops> ops_;
  row_logits seen_;
};

inline std::vector<page_id> pages_from(int first, int count) {
  std::vector<page_id> out;
  for (int i = 0; i < count; ++i) out.push_back(page_id{first + i});
  return out;
}

inline std::vector<cpu::isa> paths_here() {
  std::vector<cpu::isa> out;
  for (const cpu::isa path : {cpu::isa::portable, cpu::isa::avx2, cpu::isa::avx512}) {
    if (cpu::choose_isa(path)) out.push_back(path);
  }
  return out;
}

inline cpu::options small_options(cpu::isa path, cpu::numerics precision, int threads = 1) {
  cpu::options chosen;
  chosen.threads = threads;
  chosen.path = path;
  chosen.precision = precision;
  chosen.rows_max = 256;
  chosen.kv_bytes = 8u << 20;
  return chosen;
}

}  // namespace foretoken::test
