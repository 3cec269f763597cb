// SPDX-License-Identifier: Apache-2.0
// cuBLASLt on the products of a step, for comparison with gpu_step_bench --chosen: y = x W^T in f16
// with float sums, no epilogue, one product a layer with the layer's own weights, all layers as one
// graph. The program does not use the library; docs/decisions/0007 says why.
//
//   gpu_library_bench [--smoke] [--chains] [smollm2] [llama1b]
//
// Lines: "product SHAPE NAME ROWS us-of-the-heuristic's-first us-of-the-best-of-eight", a layer;
// and for algorithms pinned to what was chosen for some number of rows: "pinned SHAPE NAME
// CHOSEN-FOR same-bits us...", at every number of rows, "-" where the algorithm refuses it. Same
// bits: whether row 0 has the bits in all of them that it has alone. Exits 77 without a device.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include <cublasLt.h>

#include "bench/gpu_chain.hpp"
#include "bench/gpu_step_model.hpp"

namespace foretoken {
namespace {

using foretoken::must;
void must(cublasStatus_t code, const char* what) {
  if (code == CUBLAS_STATUS_SUCCESS) return;
  std::fprintf(stderr, "%s: cuBLASLt status %d\n", what, static_cast<int>(code));
  std::exit(1);
}

constexpr std::size_t workspace_size = 32u << 20;
constexpr int rows_most = 2048;

struct product_shape {
  const char* name;
  int outputs, inputs;
};

// y[rows][outputs] = x[rows][inputs] W[outputs][inputs]^T; the library is told of columns.
class layouts {
 public:
  // used: how many of the inputs, 0 = all; results are f16, and float where it is given.
  layouts(const product_shape& of, int rows, int used = 0) {
    must(cublasLtMatmulDescCreate(&product, CUBLAS_COMPUTE_32F, CUDA_R_32F), "description");
    const cublasOperation_t turned = CUBLAS_OP_T;
    must(cublasLtMatmulDescSetAttribute(product, CUBLASLT_MATMUL_DESC_TRANSA, &turned,
                                        sizeof turned),
         "turned weights");
    const auto k = static_cast<std::uint64_t>(of.inputs),
               n = static_cast<std::uint64_t>(of.outputs), m = static_cast<std::uint64_t>(rows);
    must(cublasLtMatrixLayoutCreate(&weights, CUDA_R_16F, k, n, of.inputs), "layout");
    must(cublasLtMatrixLayoutCreate(&x, CUDA_R_16F, k, m, of.inputs), "layout");
    must(cublasLtMatrixLayoutCreate(&y, used > 0 ? CUDA_R_32F : CUDA_R_16F, n, m, of.outputs),
         "layout");
  }
  layouts(const layouts&) = delete;
  layouts& operator=(const layouts&) = delete;
  ~layouts() {
    cublasLtMatrixLayoutDestroy(y);
    cublasLtMatrixLayoutDestroy(x);
    cublasLtMatrixLayoutDestroy(weights);
    cublasLtMatmulDescDestroy(product);
  }
  cublasLtMatmulDesc_t product{};
  cublasLtMatrixLayout_t weights{}, x{}, y{};
};

class library {
 public:
  library(const product_shape& of, int layers) : shape_(of), layers_(layers) {
    must(cublasLtCreate(&handle_), "library");
    must(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream");
    must(cudaEventCreate(&before_), "event");
    must(cudaEventCreate(&after_), "event");
    static const filler values;
    weights_ = memory_.take<std::uint16_t>(at(layers) * weight_count());
    values.halves(weights_, at(layers) * weight_count() * 2);
    x_ = memory_.take<std::uint16_t>(at(rows_most) * at(of.inputs));
    values.halves(x_, at(rows_most) * at(of.inputs) * 2);
    y_ = memory_.take<std::uint16_t>(at(rows_most) * at(of.outputs));
    chain_ = memory_.take<float>(at(chain_rows) * at(of.outputs));
    workspace_ = memory_.take(workspace_size);
  }
  library(const library&) = delete;
  library& operator=(const library&) = delete;
  ~library() {
    cudaEventDestroy(after_);
    cudaEventDestroy(before_);
    cudaStreamDestroy(stream_);
    cublasLtDestroy(handle_);
  }

  std::vector<cublasLtMatmulAlgo_t> proposals(int rows, int used = 0) const {
    const layouts of(shape_, rows, used);
    cublasLtMatmulPreference_t wish{};
    must(cublasLtMatmulPreferenceCreate(&wish), "preference");
    must(cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                              &workspace_size, sizeof workspace_size),
         "workspace");
    std::vector<cublasLtMatmulHeuristicResult_t> found(8);
    int count = 0;
    must(cublasLtMatmulAlgoGetHeuristic(handle_, of.product, of.weights, of.x, of.y, of.y, wish,
                                        static_cast<int>(found.size()), found.data(), &count),
         "heuristic");
    cublasLtMatmulPreferenceDestroy(wish);
    std::vector<cublasLtMatmulAlgo_t> out;
    for (int i = 0; i < count; ++i) out.push_back(found[at(i)].algo);
    return out;
  }
  bool takes(const cublasLtMatmulAlgo_t& algorithm, int rows) const {
    const layouts of(shape_, rows);
    cublasLtMatmulHeuristicResult_t found{};
    return cublasLtMatmulAlgoCheck(handle_, of.product, of.weights, of.x, of.y, of.y, &algorithm,
                                   &found) == CUBLAS_STATUS_SUCCESS &&
           found.workspaceSize <= workspace_size;
  }
  // Median microseconds a layer.
  double time(const cublasLtMatmulAlgo_t& algorithm, int rows, int replays) const {
    const layouts of(shape_, rows);
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t ready = nullptr;
    queue(of, algorithm, 1);
    must(cudaStreamSynchronize(stream_), "product");
    must(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "capture");
    queue(of, algorithm, layers_);
    must(cudaStreamEndCapture(stream_, &graph), "capture");
    must(cudaGraphInstantiate(&ready, graph, 0), "graph");
    cudaGraphDestroy(graph);
    std::vector<double> times;
    for (int i = 0; i < replays + 2; ++i) {
      must(cudaEventRecord(before_, stream_), "event");
      for (int k = 0; k < 3; ++k) must(cudaGraphLaunch(ready, stream_), "replay");
      must(cudaEventRecord(after_, stream_), "event");
      must(cudaEventSynchronize(after_), "products");
      float ms = 0;
      must(cudaEventElapsedTime(&ms, before_, after_), "event");
      if (i >= 2) times.push_back(static_cast<double>(ms) * 1e3 / 3 / layers_);
    }
    cudaGraphExecDestroy(ready);
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
  }
  std::vector<std::uint16_t> first_row(const cublasLtMatmulAlgo_t& algorithm, int rows) const {
    const layouts of(shape_, rows);
    queue(of, algorithm, 1);
    must(cudaStreamSynchronize(stream_), "product");
    std::vector<std::uint16_t> out(at(shape_.outputs));
    must(cudaMemcpy(out.data(), y_, out.size() * 2, cudaMemcpyDeviceToHost), "copy");
    return out;
  }
  static constexpr int chain_rows = 64;
  // Float results that are not those of one chain of products over `used` inputs.
  std::size_t unlike_chain(const cublasLtMatmulAlgo_t& algorithm, int used) const {
    const layouts of(shape_, chain_rows, used);
    queue(of, algorithm, 1);
    must(launch_chain({weights_, x_, chain_, shape_.outputs, chain_rows, used, shape_.inputs},
                      stream_),
         "chain");
    must(cudaStreamSynchronize(stream_), "chain");
    std::vector<float> theirs(at(chain_rows) * at(shape_.outputs)), ours(theirs.size());
    must(cudaMemcpy(theirs.data(), y_, theirs.size() * 4, cudaMemcpyDeviceToHost), "copy");
    must(cudaMemcpy(ours.data(), chain_, ours.size() * 4, cudaMemcpyDeviceToHost), "copy");
    std::size_t different = 0;
    for (std::size_t i = 0; i < ours.size(); ++i) {
      different += std::memcmp(&ours[i], &theirs[i], 4) != 0;
    }
    return different;
  }

 private:
  std::size_t weight_count() const { return at(shape_.outputs) * at(shape_.inputs); }
  void queue(const layouts& of, const cublasLtMatmulAlgo_t& algorithm, int layers) const {
    const float one = 1, zero = 0;
    for (int i = 0; i < layers; ++i) {
      must(cublasLtMatmul(handle_, of.product, &one, weights_ + at(i) * weight_count(), of.weights,
                          x_, of.x, &zero, y_, of.y, y_, of.y, &algorithm, workspace_,
                          workspace_size, stream_),
           "product");
    }
  }
  product_shape shape_;
  int layers_;
  memory memory_;
  cublasLtHandle_t handle_{};
  cudaStream_t stream_{};
  cudaEvent_t before_{}, after_{};
  std::uint16_t *weights_ = nullptr, *x_ = nullptr, *y_ = nullptr;
  float* chain_ = nullptr;
  void* workspace_ = nullptr;
};

const std::vector<int> few{1, 8}, many{64, 128, 512, 1024, 2048};

struct found_algorithm {
  int chosen_for;
  cublasLtMatmulAlgo_t algorithm;
};

// The fastest proposal for each number of rows; prints both times.
std::vector<found_algorithm> best_of_each(const library& with,
                                          const char* shape,
                                          const char* product,
                                          int replays) {
  std::vector<found_algorithm> out;
  for (const std::vector<int>* const some : {&few, &many}) {
    for (const int rows : *some) {
      double first = 0, least = 0;
      std::optional<cublasLtMatmulAlgo_t> best;
      for (const cublasLtMatmulAlgo_t& each : with.proposals(rows)) {
        const double us = with.time(each, rows, replays);
        if (!best) first = us;
        if (!best || us < least) {
          least = us;
          best = each;
        }
      }
      std::printf("product %s %s %d %.2f %.2f\n", shape, product, rows, first, least);
      std::fflush(stdout);
      if (best) out.push_back({rows, *best});
    }
  }
  return out;
}

// One algorithm for all numbers of rows: what a row's bits that do not depend on the batch would
// take.
void pin(const library& with,
         const char* shape,
         const char* product,
         const found_algorithm& found,
         int replays) {
  bool same = true;
  std::vector<std::uint16_t> alone;
  std::string times;
  for (const std::vector<int>* const some : {&few, &many}) {
    for (const int rows : *some) {
      if (!with.takes(found.algorithm, rows)) {
        times += " -";
        continue;
      }
      const std::vector<std::uint16_t> bits = with.first_row(found.algorithm, rows);
      if (alone.empty()) alone = bits;
      same &= alone == bits;
      char text[32];
      std::snprintf(text, sizeof text, " %.2f", with.time(found.algorithm, rows, replays));
      times += text;
    }
  }
  std::printf("pinned %s %s %d %s%s\n", shape, product, found.chosen_for, same ? "same" : "differ",
              times.c_str());
  std::fflush(stdout);
}

// Algorithms for float results at several numbers of rows, on 64.
void compare_chains(const library& with, const char* shape, const product_shape& product) {
  for (const int rows : {8, 64, 512, 2048}) {
    const auto found = with.proposals(rows, product.inputs);
    if (found.empty()) continue;
    std::printf("chain %s %s %d %zu of %d\n", shape, product.name, rows,
                with.unlike_chain(found[0], product.inputs), library::chain_rows * product.outputs);
  }
}

void run_shape(const bench_shape& shape, bool smoke, bool only_chains) {
  const int head = shape.head_dim;
  const product_shape products[] = {
      {"qkv", (shape.heads + 2 * shape.kv_heads) * head, shape.width},
      {"o", shape.width, shape.heads * head},
      {"gate_up", 2 * shape.ffn, shape.width},
      {"down", shape.width, shape.ffn},
  };
  for (const product_shape& each : products) {
    const library with(each, smoke ? 1 : shape.layers);
    const int replays = smoke ? 1 : 7;
    compare_chains(with, shape.name, each);
    if (only_chains) continue;
    for (const found_algorithm& found : best_of_each(with, shape.name, each.name, replays)) {
      pin(with, shape.name, each.name, found, replays);
    }
  }
}

}  // namespace
}  // namespace foretoken

int main(int count, char** arguments) {
  using namespace foretoken;
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("no CUDA device: skipped\n");
    return 77;
  }
  bool smoke = false, only_chains = false;
  std::vector<std::string> names;
  for (int i = 1; i < count; ++i) {
    const std::string word = arguments[i];
    if (word == "--smoke") {
      smoke = true;
    } else if (word == "--chains") {
      only_chains = true;
    } else {
      names.push_back(word);
    }
  }
  for (const bench_shape& shape : shapes) {
    const bool wanted =
        names.empty() || std::find(names.begin(), names.end(), shape.name) != names.end();
    if (wanted) run_shape(shape, smoke, only_chains);
  }
  return 0;
}
