// SPDX-License-Identifier: Apache-2.0
#include "tests/reference/forward.hpp"

#include <algorithm>
#include <cmath>

namespace foretoken::reference {
namespace {

using model::tensor;
using vector = std::vector<double>;

std::size_t size_of(std::int64_t n) {
  return static_cast<std::size_t>(n);
}

vector values(const tensor& source, std::int64_t first, std::int64_t count) {
  std::vector<float> out(size_of(count * source.columns));
  model::dequantise(source, first, count, out.data());
  return {out.begin(), out.end()};
}

vector all(const tensor& source) {
  return source.empty() ? vector{} : values(source, 0, source.rows);
}

struct matrix {
  vector w, bias;
  std::size_t rows = 0, columns = 0;
  matrix(const tensor& from, const tensor& added)
      : w(all(from)), bias(all(added)), rows(size_of(from.rows)), columns(size_of(from.columns)) {}
  vector times(const vector& x) const {
    vector y(rows);
    for (std::size_t n = 0; n < rows; ++n) {
      double sum = bias.empty() ? 0.0 : bias[n];
      for (std::size_t k = 0; k < columns; ++k) sum += w[n * columns + k] * x[k];
      y[n] = sum;
    }
    return y;
  }
};

class network {
 public:
  network(const model::model_file& file, const std::vector<token>& tokens, const rounding& stored)
      : file_(file), shape_(file.shape), tokens_(tokens), stored_(stored) {}

  std::vector<vector> run() {
    std::vector<vector> x;
    for (std::size_t t = 0; t < tokens_.size(); ++t) x.push_back(embedded(t));
    for (int layer = 0; layer < shape_.layers; ++layer) {
      attention_layer(x, layer);
      ffn_layer(x, layer);
    }
    const matrix head(file_.tensors.head, {});
    std::vector<vector> logits;
    for (const vector& row : x) {
      vector y = head.times(norm(row, file_.tensors.final_norm, file_.tensors.final_norm_bias));
      for (double& value : y) value = capped(value, shape_.final_softcap);
      logits.push_back(std::move(y));
    }
    return logits;
  }

 private:
  static double capped(double value, float cap) {
    return cap > 0 ? cap * std::tanh(value / cap) : value;
  }

  vector embedded(std::size_t t) const {
    vector x = values(file_.tensors.embedding, tokens_[t], 1);
    for (double& value : x) value *= static_cast<double>(shape_.embedding_scale);
    if (!shape_.learned_positions) return x;
    const vector learned = values(file_.tensors.positions, static_cast<std::int64_t>(t), 1);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += learned[i];
    return x;
  }

  vector rms(const vector& x, const tensor& weight) const {
    double squares = 0;
    for (const double value : x) squares += value * value;
    const double scale = 1 / std::sqrt(squares / static_cast<double>(x.size()) +
                                       static_cast<double>(shape_.norm_epsilon));
    vector w = all(weight);
    for (std::size_t i = 0; i < w.size(); ++i) {
      w[i] = x[i] * scale * (w[i] + (file_.tensors.norm_plus_one ? 1.0 : 0.0));
    }
    return w;
  }

  vector norm(const vector& x, const tensor& weight, const tensor& bias) const {
    if (shape_.norm == model::norm_kind::rms) return rms(x, weight);
    const auto n = static_cast<double>(x.size());
    double mean = 0;
    double variance = 0;
    for (const double value : x) mean += value / n;
    for (const double value : x) variance += (value - mean) * (value - mean) / n;
    vector out = all(weight);
    const vector b = all(bias);
    for (std::size_t i = 0; i < out.size(); ++i) {
      out[i] *= (x[i] - mean) / std::sqrt(variance + static_cast<double>(shape_.norm_epsilon));
      if (!b.empty()) out[i] += b[i];
    }
    return out;
  }

  // Heads of one projection: split, normed, rotated.
  std::vector<vector> heads(const vector& y, const tensor& weight, int layer, std::size_t t) const {
    std::vector<vector> out;
    const auto dim = static_cast<std::ptrdiff_t>(shape_.head_dim);
    for (auto from = y.begin(); from != y.end(); from += dim) {
      vector head(from, from + dim);
      if (!weight.empty()) head = rms(head, weight);
      rotate(head, shape_.attention[size_of(layer)].rope, t);
      out.push_back(std::move(head));
    }
    return out;
  }

  void rotate(vector& head, int rope, std::size_t t) const {
    if (rope < 0) return;
    const auto& frequency = shape_.ropes[size_of(rope)].frequency;
    for (std::size_t i = 0; i < frequency.size(); ++i) {
      const double angle = static_cast<double>(t) * static_cast<double>(frequency[i]);
      double& a = shape_.rope_neighbours ? head[2 * i] : head[i];
      double& b = shape_.rope_neighbours ? head[2 * i + 1] : head[i + frequency.size()];
      const double turned = a * std::cos(angle) - b * std::sin(angle);
      b = a * std::sin(angle) + b * std::cos(angle);
      a = turned;
    }
  }

  vector attended(const vector& q,
                  const std::vector<std::vector<vector>>& k,
                  const std::vector<std::vector<vector>>& v,
                  std::size_t head,
                  std::size_t t,
                  int layer) const {
    const int window = shape_.attention[size_of(layer)].window;
    vector weight(t + 1, 0.0);
    double total = 0;
    for (std::size_t s = 0; s <= t; ++s) {
      if (window > 0 && s + size_of(window) <= t) continue;
      double score = 0;
      for (std::size_t d = 0; d < q.size(); ++d) score += q[d] * k[s][head][d];
      weight[s] = std::exp(
          capped(score * static_cast<double>(shape_.query_scale), shape_.attention_softcap));
      total += weight[s];
    }
    vector out(q.size(), 0.0);
    for (std::size_t s = 0; s <= t; ++s) {
      for (std::size_t d = 0; d < q.size(); ++d) out[d] += weight[s] / total * v[s][head][d];
    }
    return out;
  }

  void add(vector& x, vector y, const tensor& post_norm) const {
    if (shape_.post_norms) y = rms(y, post_norm);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += y[i];
  }

  void attention_layer(std::vector<vector>& x, int layer) const {
    const auto& from = file_.tensors.layers[size_of(layer)];
    const matrix wq(from.q, from.q_bias), wk(from.k, from.k_bias), wv(from.v, from.v_bias);
    const matrix wo(from.o, from.o_bias);
    std::vector<std::vector<vector>> q, k, v;
    for (std::size_t t = 0; t < x.size(); ++t) {
      const vector input = norm(x[t], from.attention_norm, from.attention_norm_bias);
      q.push_back(heads(wq.times(input), from.q_norm, layer, t));
      k.push_back(heads(wk.times(input), from.k_norm, layer, t));
      std::vector<vector> split;
      const vector flat = wv.times(input);
      const auto dim = static_cast<std::ptrdiff_t>(shape_.head_dim);
      for (auto at = flat.begin(); at != flat.end(); at += dim) split.emplace_back(at, at + dim);
      v.push_back(std::move(split));
      for (std::size_t h = 0; stored_ && h < v.back().size(); ++h) {
        stored_(k.back()[h]);
        stored_(v.back()[h]);
      }
    }
    const auto group = size_of(shape_.heads / shape_.kv_heads);
    for (std::size_t t = 0; t < x.size(); ++t) {
      vector joined;
      for (std::size_t h = 0; h < size_of(shape_.heads); ++h) {
        const vector out = attended(q[t][h], k, v, h / group, t, layer);
        joined.insert(joined.end(), out.begin(), out.end());
      }
      add(x[t], wo.times(joined), from.attention_post_norm);
    }
  }

  double activated(double x) const {
    if (shape_.activation == model::activation_kind::silu_gate) return x / (1 + std::exp(-x));
    return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
  }

  void ffn_layer(std::vector<vector>& x, int layer) const {
    const auto& from = file_.tensors.layers[size_of(layer)];
    const bool gated = shape_.activation != model::activation_kind::gelu_tanh;
    const matrix gate(from.gate, {}), up(from.up, from.up_bias), down(from.down, from.down_bias);
    for (vector& row : x) {
      const vector input = norm(row, from.ffn_norm, from.ffn_norm_bias);
      vector h = up.times(input);
      const vector g = gated ? gate.times(input) : h;
      for (std::size_t i = 0; i < h.size(); ++i) h[i] = activated(g[i]) * (gated ? h[i] : 1.0);
      add(row, down.times(h), from.ffn_post_norm);
    }
  }

  const model::model_file& file_;
  const model::hyperparameters& shape_;
  const std::vector<token>& tokens_;
  const rounding& stored_;
};

}  // namespace

std::vector<std::vector<double>> forward(const model::model_file& file,
                                         const std::vector<token>& tokens,
                                         const rounding& stored) {
  return network(file, tokens, stored).run();
}

}  // namespace foretoken::reference
