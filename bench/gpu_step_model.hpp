// SPDX-License-Identifier: Apache-2.0
#pragma once
// A model of random weights in device memory, for gpu_step_bench.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include <cuda_runtime.h>

#include "base/half.hpp"
#include "gpu/packing.hpp"

namespace foretoken {

inline void must(cudaError_t code, const char* what) {
  if (code == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(code));
  std::exit(1);
}
inline void must(const status& done, const char* what) {
  if (done) return;
  std::fprintf(stderr, "%s: %s\n", what, to_string(done.error()).c_str());
  std::exit(1);
}

struct bench_shape {
  const char* name;
  int layers, width, heads, kv_heads, head_dim, ffn, vocabulary;
};
constexpr bench_shape shapes[] = {
    {"smollm2", 30, 576, 9, 3, 64, 1536, 49152},
    {"llama1b", 16, 2048, 32, 8, 64, 8192, 128256},
};

inline std::size_t at(int n) {
  return static_cast<std::size_t>(n);
}

class memory {
 public:
  ~memory() {
    for (void* one : taken_) cudaFree(one);
  }
  void* take(std::size_t bytes) {
    void* out = nullptr;
    must(cudaMalloc(&out, bytes), "cudaMalloc");
    must(cudaMemset(out, 0, bytes), "cudaMemset");
    taken_.push_back(out);
    total_ += bytes;
    return out;
  }
  template <class T>
  T* take(std::size_t count) {
    return static_cast<T*>(take(count * sizeof(T)));
  }
  std::size_t total() const { return total_; }

 private:
  std::vector<void*> taken_;
  std::size_t total_ = 0;
};

// Random values in the order they come: for timing, any order of rows is as good as another.
class filler {
 public:
  filler() : random_(1) {
    std::normal_distribution<float> normal(0, 0.03f);
    halves_.resize(1u << 22);
    for (auto& v : halves_) v = float_to_f16(normal(random_));
    words_.resize(1u << 21);
    for (auto& v : words_) v = static_cast<std::uint32_t>(random_());
  }
  void halves(void* to, std::size_t bytes) const {
    fill(to, bytes, halves_.data(), halves_.size() * 2);
  }
  void codes(void* to, std::size_t bytes) const {
    fill(to, bytes, words_.data(), words_.size() * 4);
  }
  void scales(std::uint32_t* to, std::size_t count, int levels) const {
    const float step = 0.1f / static_cast<float>(levels);
    const std::uint32_t one = float_to_f16(step) | static_cast<std::uint32_t>(float_to_f16(-0.05f))
                                                       << 16;
    const std::vector<std::uint32_t> all(count, one);
    must(cudaMemcpy(to, all.data(), count * 4, cudaMemcpyHostToDevice), "copy");
  }

 private:
  static void fill(void* to, std::size_t bytes, const void* from, std::size_t size) {
    auto* const start = static_cast<char*>(to);
    must(cudaMemcpy(start, from, std::min(size, bytes), cudaMemcpyHostToDevice), "copy");
    for (std::size_t done = size; done < bytes; done *= 2) {
      must(cudaMemcpy(start + done, start, std::min(done, bytes - done), cudaMemcpyDeviceToDevice),
           "copy");
    }
  }
  std::mt19937 random_;
  std::vector<std::uint16_t> halves_;
  std::vector<std::uint32_t> words_;
};

struct bench_layer {
  gpu::packed_matrix qkv, o, gate_up, down;
  gpu::norm_parameters attention_norm, ffn_norm;
};

class bench_model {
 public:
  bench_model(const bench_shape& shape, gpu::weight_form form) : shape_(shape), form_(form) {
    for (int i = 0; i < shape.layers; ++i) {
      bench_layer layer;
      layer.qkv = matrix((shape.heads + 2 * shape.kv_heads) * shape.head_dim, shape.width);
      layer.o = matrix(shape.width, shape.heads * shape.head_dim);
      layer.gate_up = matrix(2 * shape.ffn, shape.width);
      layer.down = matrix(shape.width, shape.ffn);
      layer.attention_norm = norm();
      layer.ffn_norm = norm();
      layers.push_back(layer);
    }
    final_norm = norm();
    head = matrix(shape.vocabulary, shape.width);
    std::vector<float> table;
    for (int p = 0; p < context_max; ++p) {
      for (int i = 0; i < shape.head_dim; ++i)
        table.push_back(i < shape.head_dim / 2 ? 0.8f : 0.6f);
    }
    angles = memory_.take<float>(table.size());
    must(cudaMemcpy(angles, table.data(), table.size() * 4, cudaMemcpyHostToDevice), "copy");
  }
  static constexpr int context_max = 2064;
  std::size_t weight_bytes() const { return weight_bytes_; }
  const bench_shape& shape() const { return shape_; }

  std::vector<bench_layer> layers;
  gpu::norm_parameters final_norm;
  gpu::packed_matrix head;
  float* angles = nullptr;

 private:
  gpu::packed_matrix matrix(int rows, int columns) {
    const std::size_t codes = gpu::packed_code_bytes(form_, rows, columns);
    const std::size_t scales = gpu::packed_scale_bytes(form_, rows, columns);
    void* const code_memory = memory_.take(codes);
    auto* scale_memory = static_cast<std::uint32_t*>(memory_.take(scales + 4));
    if (form_ == gpu::weight_form::f16) {
      filler_.halves(code_memory, codes);
    } else {
      filler_.codes(code_memory, codes);
      filler_.scales(scale_memory, scales / 4, form_ == gpu::weight_form::w8 ? 256 : 16);
    }
    weight_bytes_ += codes + scales;
    return {code_memory, scale_memory, nullptr, nullptr, rows, columns, form_};
  }
  gpu::norm_parameters norm() {
    const std::vector<float> ones(at(shape_.width), 1.0f);
    auto* const weight = memory_.take<float>(ones.size());
    must(cudaMemcpy(weight, ones.data(), ones.size() * 4, cudaMemcpyHostToDevice), "copy");
    return {weight, nullptr, 1e-5f, model::norm_kind::rms};
  }
  bench_shape shape_;
  gpu::weight_form form_;
  memory memory_;
  filler filler_;
  std::size_t weight_bytes_ = 0;
};

}  // namespace foretoken
