// SPDX-License-Identifier: Apache-2.0
#pragma once
// Random matrices in every packed form, with the values that the kernels must see.

#include <cmath>
#include <random>

#include "base/half.hpp"
#include "gpu/packing.hpp"
#include "tests/kernels/device.hpp"

namespace foretoken::test {

inline std::size_t at(int n) {
  return static_cast<std::size_t>(n);
}

class random_source {
 public:
  explicit random_source(unsigned seed) : random_(seed) {}
  float normal(float spread = 1) { return spread * normal_(random_); }
  unsigned below(unsigned n) { return static_cast<unsigned>(random_() % n); }
  std::vector<float> normals(std::size_t size, float spread = 1) {
    std::vector<float> out(size);
    for (float& v : out) v = normal(spread);
    return out;
  }

 private:
  std::mt19937 random_;
  std::normal_distribution<float> normal_;
};

// A matrix in device memory and, on the host, the f16 values of it [rows][columns] in the model's
// order.
struct made_matrix {
  gpu::packed_matrix view;
  std::vector<float> values;
  int rows = 0, columns = 0;
  std::vector<float> bias;  // model order; empty = none

  double times(int row, const double* x) const {
    double sum = bias.empty() ? 0.0 : static_cast<double>(bias[at(row)]);
    for (int k = 0; k < columns; ++k) {
      sum += static_cast<double>(values[at(row) * at(columns) + at(k)]) * x[k];
    }
    return sum;
  }

  device_array<std::byte> codes;
  device_array<std::uint32_t> scales;
  device_array<float> packed_bias;
};

inline made_matrix pack_matrix(std::vector<float> source,
                               int rows,
                               int columns,
                               const gpu::row_order& order,
                               const std::vector<float>& bias = {}) {
  made_matrix out;
  out.rows = rows;
  out.columns = columns;
  std::vector<std::uint16_t> halves(source.size());
  for (std::size_t i = 0; i < source.size(); ++i) {
    halves[i] = float_to_f16(source[i]);
    source[i] = f16_to_float(halves[i]);
  }
  out.values = std::move(source);
  out.bias = bias;
  const int packed = static_cast<int>(order.size());
  std::vector<std::byte> codes(gpu::packed_code_bytes(gpu::weight_form::f16, packed, columns));
  gpu::pack_f16(halves, columns, order, codes.data());
  out.codes = device_array<std::byte>(codes);
  out.view = {out.codes.get(), nullptr, nullptr, nullptr, packed, columns, gpu::weight_form::f16};
  if (!bias.empty()) {
    out.packed_bias = device_array<float>(gpu::ordered(bias, order, 0));
    out.view.bias = out.packed_bias.get();
  }
  return out;
}

// w8 and w4 need whole groups of 32 columns.
inline made_matrix random_matrix(random_source& random,
                                 gpu::weight_form form,
                                 int rows,
                                 int columns,
                                 const gpu::row_order& order,
                                 bool biased = false) {
  const float spread = 1.0f / std::sqrt(static_cast<float>(columns));
  const std::size_t size = at(rows) * at(columns);
  std::vector<float> bias;
  if (biased) bias = random.normals(at(rows));
  if (form == gpu::weight_form::f16) {
    return pack_matrix(random.normals(size, spread), rows, columns, order, bias);
  }
  made_matrix out;
  out.rows = rows;
  out.columns = columns;
  out.bias = bias;
  out.values.resize(size);
  const unsigned levels = form == gpu::weight_form::w8 ? 256 : 16;
  std::vector<std::uint8_t> values(size);
  std::vector<std::uint16_t> scale(size / 32), minimum(size / 32);
  for (std::size_t g = 0; g < scale.size(); ++g) {
    const float step =
        spread * 4 / static_cast<float>(levels) * (0.5f + std::fabs(random.normal()));
    scale[g] = float_to_f16(step);
    minimum[g] = float_to_f16(-step * static_cast<float>(levels) * 0.5f + random.normal(spread));
  }
  for (std::size_t i = 0; i < size; ++i) {
    values[i] = static_cast<std::uint8_t>(random.below(levels));
    out.values[i] = f16_to_float(gpu::dequantised_f16(scale[i / 32], minimum[i / 32], values[i]));
  }
  const int packed = static_cast<int>(order.size());
  std::vector<std::byte> codes(gpu::packed_code_bytes(form, packed, columns));
  std::vector<std::uint32_t> both(gpu::packed_scale_bytes(form, packed, columns) / 4);
  gpu::pack_quantised(form, values, scale, minimum, columns, order, codes.data(), both.data());
  out.codes = device_array<std::byte>(codes);
  out.scales = device_array<std::uint32_t>(both);
  out.view = {out.codes.get(), out.scales.get(), nullptr, nullptr, packed, columns, form};
  if (biased) {
    out.packed_bias = device_array<float>(gpu::ordered(bias, order, 0));
    out.view.bias = out.packed_bias.get();
  }
  return out;
}

// The kernels' shared memory for rows_max rows of a shape.
struct made_workspace {
  gpu::workspace view;
  made_workspace(const model::hyperparameters& shape, int rows_max, int context) {
    const auto bytes =
        gpu::workspace_bytes(shape, rows_max, rows_max * gpu::attention_spans(context));
    const auto take = [&](std::size_t size) {
      parts_.push_back(zeros<std::byte>(size));
      return static_cast<void*>(parts_.back().get());
    };
    view.x = static_cast<float*>(take(bytes.x));
    view.normed = static_cast<std::uint16_t*>(take(bytes.normed));
    view.squares = static_cast<float*>(take(bytes.squares));
    view.q = static_cast<std::uint16_t*>(take(bytes.q));
    view.attended = static_cast<std::uint16_t*>(take(bytes.attended));
    view.hidden = static_cast<std::uint16_t*>(take(bytes.hidden));
    view.raw = static_cast<float*>(take(bytes.raw));
    view.partial = static_cast<float*>(take(bytes.partial));
    view.arrived = static_cast<std::uint32_t*>(take(bytes.arrived));
    view.kv_saturated = static_cast<std::uint32_t*>(take(4));
  }

 private:
  std::vector<device_array<std::byte>> parts_;
};

// Rows of f16 values, padded with zeros as the kernels leave them.
inline void put_halves(std::uint16_t* to, const std::vector<float>& values, int rows, int columns) {
  const int padded = gpu::padded_columns(columns);
  std::vector<std::uint16_t> halves(at(rows * padded), 0);
  for (int r = 0; r < rows; ++r) {
    for (int i = 0; i < columns; ++i) {
      halves[at(r * padded + i)] = float_to_f16(values[at(r * columns + i)]);
    }
  }
  device_write(to, halves.data(), halves.size() * 2);
}

inline std::vector<float> get_halves(const std::uint16_t* from, int rows, int columns) {
  const int padded = gpu::padded_columns(columns);
  std::vector<std::uint16_t> halves(at(rows * padded));
  device_read(halves.data(), from, halves.size() * 2);
  std::vector<float> out;
  for (int r = 0; r < rows; ++r) {
    for (int i = 0; i < columns; ++i) out.push_back(f16_to_float(halves[at(r * padded + i)]));
  }
  return out;
}

// The residual stream as the kernel before a norm leaves it.
inline std::vector<float> tile_sums(const std::vector<float>& x, int rows, int width) {
  std::vector<float> out;
  for (int r = 0; r < rows; ++r) {
    for (int t = 0; t < gpu::square_tiles(width); ++t) {
      double sum = 0;
      for (int i = 16 * t; i < std::min(width, 16 * t + 16); ++i) {
        sum +=
            static_cast<double>(x[at(r * width + i)]) * static_cast<double>(x[at(r * width + i)]);
      }
      out.push_back(static_cast<float>(sum));
    }
  }
  return out;
}
inline void put_stream(const gpu::workspace& work,
                       const std::vector<float>& x,
                       const std::vector<float>& gain,
                       int rows,
                       int width) {
  std::vector<float> scaled(at(rows * width));
  for (std::size_t i = 0; i < scaled.size(); ++i) scaled[i] = x[i] * gain[i % at(width)];
  put_halves(work.normed, scaled, rows, width);
  const auto sums = tile_sums(x, rows, width);
  device_write(work.squares, sums.data(), sums.size() * 4);
  device_write(work.x, x.data(), at(rows * width) * 4);
}

template <class T>
std::vector<T> read_device(const T* from, std::size_t size) {
  std::vector<T> out(size);
  device_read(out.data(), from, size * sizeof(T));
  return out;
}

// ||got - expected|| / ||expected||; NaN when either holds one.
template <class A, class B>
double relative_error(const A& got, const B& expected) {
  double off = 0, all = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double e = static_cast<double>(expected[i]);
    const double d = static_cast<double>(got[i]) - e;
    off += d * d;
    all += e * e;
  }
  return std::sqrt(off / all);
}

}  // namespace foretoken::test
