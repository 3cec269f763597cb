// SPDX-License-Identifier: Apache-2.0
#pragma once
// A random model of a compiled shape on the device, with a pool of random keys and values, and the
// step of one row in double precision, written from the formulas. For the test and the benchmark.

#include <cuda_runtime.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "base/half.hpp"
#include "gpu/cluster_layout.hpp"
#include "gpu/cluster_step.hpp"
#include "gpu/packing.hpp"

namespace foretoken::cluster_test {

using namespace gpu::cluster;

inline void check(cudaError_t code, const char* what) {
  if (code == cudaSuccess) return;
  std::printf("%s: %s\n", what, cudaGetErrorString(code));
  std::exit(1);
}
inline void check(const status& done) {
  if (done) return;
  std::printf("%s\n", to_string(done.error()).c_str());
  std::exit(1);
}

template <class T>
struct on_device {
  T* at = nullptr;
  std::size_t count = 0;
  explicit on_device(std::size_t n) : count(n) {
    check(cudaMalloc(&at, n * sizeof(T)), "cudaMalloc");
  }
  explicit on_device(const std::vector<T>& from) : on_device(from.size()) {
    check(cudaMemcpy(at, from.data(), count * sizeof(T), cudaMemcpyHostToDevice), "upload");
  }
  on_device(const on_device&) = delete;
  ~on_device() { cudaFree(at); }
  std::vector<T> read() const {
    std::vector<T> out(count);
    check(cudaMemcpy(out.data(), at, count * sizeof(T), cudaMemcpyDeviceToHost), "download");
    return out;
  }
};

struct random_numbers {
  std::uint64_t state;
  std::uint32_t next() {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return static_cast<std::uint32_t>(state >> 32);
  }
  float between(float low, float high) {
    return low + (high - low) * (static_cast<float>(next() >> 8) * 0x1p-24f);
  }
};

struct dimensions {
  model_shape shape;
  int width, heads, kv_heads, ffn, vocabulary, layers;
};
inline dimensions dimensions_of(model_shape shape) {
  if (shape == model_shape::tiny) {
    using S = tiny_rows8;
    return {shape, S::width, S::heads, S::kv_heads, S::ffn, S::vocabulary, 3};
  }
  using S = smollm2_135m_rows8;
  return {shape, S::width, S::heads, S::kv_heads, S::ffn, S::vocabulary, 30};
}

struct random_matrix {
  int rows, columns;
  std::vector<std::uint8_t> codes;
  std::vector<std::uint16_t> scale, minimum;
  random_matrix(int r, int c, float spread, random_numbers& random)
      : rows(r),
        columns(c),
        codes(static_cast<std::size_t>(r) * c),
        scale(codes.size() / 32),
        minimum(scale.size()) {
    for (std::size_t i = 0; i < codes.size(); i += 8) {
      const std::uint32_t word = random.next();
      for (std::size_t j = 0; j < 8; ++j) codes[i + j] = word >> (4 * j) & 15;
    }
    const float step = spread / (4.6f * std::sqrt(static_cast<float>(c)));
    for (std::size_t i = 0; i < scale.size(); ++i) {
      const float d = step * random.between(0.6f, 1.4f);
      scale[i] = float_to_f16(d);
      minimum[i] = float_to_f16(d * random.between(-8.0f, -7.0f));
    }
  }
  coded_matrix view() const { return {codes, scale, minimum}; }
  double at(int row, int column) const {
    const std::size_t i = static_cast<std::size_t>(row) * columns + column;
    return f16_to_float(float_to_f16(static_cast<float>(
        double(f16_to_float(scale[i / 32])) * codes[i] + double(f16_to_float(minimum[i / 32])))));
  }
  // y = W x
  std::vector<double> times(const std::vector<double>& x) const {
    std::vector<double> y(static_cast<std::size_t>(rows));
    for (int r = 0; r < rows; ++r) {
      double sum = 0;
      for (int c = 0; c < columns; ++c) sum += at(r, c) * x[static_cast<std::size_t>(c)];
      y[static_cast<std::size_t>(r)] = sum;
    }
    return y;
  }
};

struct random_layer {
  random_matrix q, k, v, o, gate, up, down;
};

struct random_model {
  dimensions size;
  bool neighbours;
  std::vector<random_layer> layer;
  std::unique_ptr<random_matrix> head, embedding;
  std::vector<float> gains, angles;
  static constexpr int context = 4096;

  random_model(model_shape shape, bool rope_neighbours, std::uint64_t seed)
      : size(dimensions_of(shape)), neighbours(rope_neighbours) {
    random_numbers random{seed};
    const int d = size.width, kv = size.kv_heads * head_dim, out = size.heads * head_dim;
    for (int i = 0; i < size.layers; ++i) {
      layer.push_back({{out, d, 1.5f, random},
                       {kv, d, 1.5f, random},
                       {kv, d, 1, random},
                       {d, out, 1, random},
                       {size.ffn, d, 1, random},
                       {size.ffn, d, 1, random},
                       {d, size.ffn, 1, random}});
    }
    head = std::make_unique<random_matrix>(size.vocabulary, d, 2.0f, random);
    const float one = 0.6f * std::sqrt(static_cast<float>(d));  // values up to about 1
    embedding = std::make_unique<random_matrix>(size.vocabulary, d, one, random);
    gains.resize(static_cast<std::size_t>(2 * size.layers + 1) * d);
    for (auto& g : gains) g = random.between(0.5f, 1.5f);
    for (int p = 0; p < context; ++p) {
      for (int h = 0; h < 2; ++h) {
        for (int i = 0; i < head_dim / 2; ++i) {
          const double angle = p * std::pow(10000.0, -2.0 * i / head_dim);
          angles.push_back(static_cast<float>(h == 0 ? std::cos(angle) : std::sin(angle)));
        }
      }
    }
  }
  std::vector<coded_layer> views() const {
    std::vector<coded_layer> out;
    for (const random_layer& l : layer) {
      out.push_back({l.q.view(), l.k.view(), l.v.view(), l.o.view(), l.gate.view(), l.up.view(),
                     l.down.view()});
    }
    return out;
  }
};

// A matrix in the general path's order, packed on the host.
struct general_order {
  std::vector<std::byte> codes;
  std::vector<std::uint32_t> scales;
  general_order(const std::vector<const random_matrix*>& parts, const gpu::row_order& order) {
    std::vector<std::uint8_t> all;
    std::vector<std::uint16_t> scale, minimum;
    for (const random_matrix* m : parts) {
      all.insert(all.end(), m->codes.begin(), m->codes.end());
      scale.insert(scale.end(), m->scale.begin(), m->scale.end());
      minimum.insert(minimum.end(), m->minimum.begin(), m->minimum.end());
    }
    const int rows = int(order.size()), columns = parts[0]->columns;
    codes.resize(gpu::packed_code_bytes(gpu::weight_form::w4, rows, columns));
    scales.resize(gpu::packed_scale_bytes(gpu::weight_form::w4, rows, columns) / 4);
    gpu::pack_quantised(gpu::weight_form::w4, all, scale, minimum, columns, order, codes.data(),
                        scales.data());
  }
};

struct general_matrix {
  general_order host;
  on_device<std::byte> codes;
  on_device<std::uint32_t> scales;
  gpu::packed_matrix view;
  general_matrix(const std::vector<const random_matrix*>& parts, const gpu::row_order& order)
      : host(parts, order), codes(host.codes), scales(host.scales) {
    view.codes = codes.at;
    view.scales = scales.at;
    view.rows = int(order.size());
    view.columns = parts[0]->columns;
    view.form = gpu::weight_form::w4;
  }
};

template <class T>
T* zeroed(std::size_t bytes) {
  void* at = nullptr;
  check(cudaMalloc(&at, bytes), "workspace");
  check(cudaMemset(at, 0, bytes), "workspace");
  return static_cast<T*>(at);
}

inline std::vector<std::byte> layer_streams(const random_model& m) {
  std::vector<std::byte> out(layer_stream_bytes(m.size.shape, m.size.layers));
  const std::vector<coded_layer> all = m.views();
  for (int i = 0; i < m.size.layers; ++i) {
    pack_layer(m.size.shape, all[std::size_t(i)], m.neighbours, {i, m.size.layers}, out);
  }
  return out;
}
inline std::vector<std::byte> head_streams(const random_model& m) {
  std::vector<std::byte> out(head_stream_bytes(m.size.shape));
  for (int i = 0; i < blocks; ++i) pack_head(m.size.shape, m.head->view(), i, out);
  return out;
}

struct uploaded_model {
  const random_model& host;
  general_order packed_embedding;
  on_device<std::byte> layers, head, embedding;
  on_device<std::uint32_t> embedding_scales;
  on_device<float> gains, angles;
  explicit uploaded_model(const random_model& from)
      : host(from),
        packed_embedding({from.embedding.get()}, gpu::plain_order(from.size.vocabulary)),
        layers(layer_streams(from)),
        head(head_streams(from)),
        embedding(packed_embedding.codes),
        embedding_scales(packed_embedding.scales),
        gains(from.gains),
        angles(from.angles) {}
  weights view() const {
    weights w;
    w.layers = layers.at;
    w.head = head.at;
    w.embedding.codes = embedding.at;
    w.embedding.scales = embedding_scales.at;
    w.embedding.rows = (host.size.vocabulary + 15) / 16 * 16;
    w.embedding.columns = host.size.width;
    w.embedding.form = gpu::weight_form::w4;
    w.gains = gains.at;
    w.angles = angles.at;
    w.layer_count = host.size.layers;
    w.norm_epsilon = 1e-5f;
    w.query_scale = 0.125f;
    w.rope_neighbours = host.neighbours;
    return w;
  }
};

// Sequences with pages of their own, in shuffled order.
struct kv_pool {
  int sequences, pages_each, pages;
  std::size_t layer_values;
  std::vector<std::int32_t> table;
  on_device<std::int32_t> tables;
  on_device<std::uint16_t> values;
  kv_pool(const dimensions& size, int count, int context)
      : sequences(count),
        pages_each((context + 15) / 16 + 1),
        pages(count * pages_each),
        layer_values(std::size_t(pages) * size.kv_heads * 2 * 16 * head_dim),
        table(shuffled(pages)),
        tables(table),
        values(layer_values * size.layers) {
    fill();
  }
  static std::vector<std::int32_t> shuffled(int n) {
    std::vector<std::int32_t> out(static_cast<std::size_t>(n));
    random_numbers random{7};
    for (int i = 0; i < n; ++i) out[i] = i;
    for (int i = n - 1; i > 0; --i) std::swap(out[i], out[random.next() % (i + 1)]);
    return out;
  }
  void fill() const;  // random values, the same every time
};

// Keys and values of one sequence out of a copy of the pool.
struct history {
  const dimensions& size;
  const kv_pool& pool;
  const std::vector<std::uint16_t>& values;
  double get(int layer, int kv_head, bool value, int sequence, int position, int dim) const;
};

std::vector<double> reference_step(
    const random_model& m, const history& past, int sequence, int token, int position);

}  // namespace foretoken::cluster_test
