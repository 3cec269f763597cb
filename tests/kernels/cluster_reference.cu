// SPDX-License-Identifier: Apache-2.0
// The step of one row in double precision.
#include <cuda_fp16.h>

#include "tests/kernels/cluster_model.cuh"

namespace foretoken::cluster_test {
namespace {

// Uniform f16 in [-1.5, 1.5], the same for the same seed and place.
__global__ void fill_random(std::uint16_t* to, std::size_t count, std::uint64_t seed) {
  for (std::size_t i = blockIdx.x * std::size_t(blockDim.x) + threadIdx.x; i < count;
       i += std::size_t(gridDim.x) * blockDim.x) {
    std::uint64_t h = (i + seed) * 0x9E3779B97F4A7C15ull;
    h = (h ^ (h >> 31)) * 0xD6E8FEB86659FD93ull;
    const float v = static_cast<float>(static_cast<std::uint32_t>(h >> 40)) * 0x1p-24f;
    const __half half = __float2half_rn(v * 3.0f - 1.5f);
    to[i] = *reinterpret_cast<const std::uint16_t*>(&half);
  }
}

std::vector<double> normed_row(const std::vector<double>& x, const float* gain, double epsilon) {
  double sum = 0;
  for (double v : x) sum += v * v;
  const double r = 1 / std::sqrt(sum / static_cast<double>(x.size()) + epsilon);
  std::vector<double> y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) y[i] = x[i] * r * gain[i];
  return y;
}

// 16 x 16 fragments in the order of a lane's 16 bytes (numerics.cuh says the same in device code).
int place_in_fragment(int row, int column) {
  return (row % 8 * 4 + column % 8 / 2) * 8 + (row / 8 + 2 * (column / 8)) * 2 + column % 2;
}

void rotate_head(double* head, int position, const random_model& m) {
  const float* angle = m.angles.data() + std::size_t(position) * head_dim;
  for (int i = 0; i < head_dim / 2; ++i) {
    double& a = head[m.neighbours ? 2 * i : i];
    double& b = head[m.neighbours ? 2 * i + 1 : i + head_dim / 2];
    const double c = angle[i], s = angle[head_dim / 2 + i], first = a * c - b * s;
    b = a * s + b * c;
    a = first;
  }
}

std::vector<double> attention(const random_model& m,
                              const history& past,
                              int layer,
                              int sequence,
                              int position,
                              const std::vector<double>& q,
                              const std::vector<double>& k,
                              const std::vector<double>& v) {
  const int group = m.size.heads / m.size.kv_heads;
  std::vector<double> out(q.size());
  for (int head = 0; head < m.size.heads; ++head) {
    const int kv_head = head / group;
    std::vector<double> p(static_cast<std::size_t>(position) + 1);
    double most = -1e300, sum = 0;
    for (int t = 0; t <= position; ++t) {
      double score = 0;
      for (int i = 0; i < head_dim; ++i) {
        const double key = t == position ? k[kv_head * head_dim + i]
                                         : past.get(layer, kv_head, false, sequence, t, i);
        score += key * q[head * head_dim + i];
      }
      p[t] = score * 0.125;
      most = std::max(most, p[t]);
    }
    for (double& one : p) sum += one = std::exp(one - most);
    for (int i = 0; i < head_dim; ++i) {
      double o = 0;
      for (int t = 0; t <= position; ++t) {
        o += p[t] * (t == position ? v[kv_head * head_dim + i]
                                   : past.get(layer, kv_head, true, sequence, t, i));
      }
      out[head * head_dim + i] = o / sum;
    }
  }
  return out;
}

}  // namespace

void kv_pool::fill() const {
  fill_random<<<1024, 256>>>(values.at, values.count, 99);
  check(cudaDeviceSynchronize(), "fill");
}

double history::get(int layer, int kv_head, bool value, int sequence, int position, int dim) const {
  const int page = pool.table[std::size_t(sequence) * pool.pages_each + position / 16];
  const int token = position % 16;
  const int inside = dim / 16 * 256 + (value ? place_in_fragment(dim % 16, token)
                                             : place_in_fragment(token, dim % 16));
  return f16_to_float(
      values[layer * pool.layer_values + (std::size_t(page) * size.kv_heads + kv_head) * 2048 +
             (value ? 1024 : 0) + inside]);
}

std::vector<double> reference_step(
    const random_model& m, const history& past, int sequence, int token, int position) {
  const std::size_t width = m.size.width;
  std::vector<double> x(width);
  for (std::size_t i = 0; i < width; ++i) x[i] = m.embedding->at(token, int(i));
  const auto add = [&](const std::vector<double>& y) {
    for (std::size_t i = 0; i < width; ++i) x[i] += y[i];
  };
  for (int layer = 0; layer < m.size.layers; ++layer) {
    const random_layer& w = m.layer[layer];
    std::vector<double> a = normed_row(x, m.gains.data() + 2 * layer * width, 1e-5);
    std::vector<double> q = w.q.times(a), k = w.k.times(a);
    const std::vector<double> v = w.v.times(a);
    for (int h = 0; h < m.size.heads; ++h) rotate_head(&q[h * head_dim], position, m);
    for (int h = 0; h < m.size.kv_heads; ++h) rotate_head(&k[h * head_dim], position, m);
    add(w.o.times(attention(m, past, layer, sequence, position, q, k, v)));
    a = normed_row(x, m.gains.data() + (2 * layer + 1) * width, 1e-5);
    std::vector<double> gate = w.gate.times(a);
    const std::vector<double> up = w.up.times(a);
    for (std::size_t i = 0; i < gate.size(); ++i)
      gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
    add(w.down.times(gate));
  }
  return m.head->times(normed_row(x, m.gains.data() + 2 * m.size.layers * width, 1e-5));
}

}  // namespace foretoken::cluster_test
