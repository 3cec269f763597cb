// SPDX-License-Identifier: Apache-2.0
// Time of the cluster-resident step, embedding to sampled token on the host's ring: lanes x rows x
// context. Random weights of SmolLM2-135M's shape, W4 (4-bit codes, f16 scale and minimum a 32),
// f16 keys and values. Lanes of a launch start together, so they share weights in the L2 cache.
// Arguments: none = the table; LANES ROWS CONTEXT = one line of it; --smoke = 1 1 512. Needs a GPU
// of compute capability 9; exits 77 without one.
#include <algorithm>
#include <chrono>
#include <string>

#include "tests/kernels/cluster_model.cuh"

namespace foretoken::cluster_test {
namespace {

struct timing {
  double median_us, best_us;
};
timing of(std::vector<double> us) {
  std::sort(us.begin(), us.end());
  return {us[us.size() / 2], us[0]};
}

class step_bench {
 public:
  step_bench(const uploaded_model& model, const kv_pool& pool) : model_(model), pool_(pool) {
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream");
    check(cudaEventCreate(&first_), "event");
    check(cudaEventCreate(&last_), "event");
    check(cudaMallocHost(&ring_, sizeof(ring_record) * 7 * lane_rows_most), "ring");
  }

  step_arguments arguments(int lanes, int rows, int context) {
    step_arguments step;
    step.model = model_.view();
    step.kv = pool_.values.at;
    step.pages = pool_.pages;
    step.page_tables = pool_.tables.at;
    step.table_stride = pool_.pages_each;
    step.lanes = lanes;
    for (int i = 0; i < lanes; ++i) {
      lane_rows& lane = step.lane[i];
      lane.rows = rows;
      lane.ring = ring_ + i * lane_rows_most;
      for (int r = 0; r < rows; ++r) {
        lane.token[r] = (i * 131 + r * 17) % model_.host.size.vocabulary;
        lane.position[r] = context - 1;
        lane.table[r] = (i * rows + r) % pool_.sequences;
      }
    }
    return step;
  }

  // Half a second of steps: an idle device has other clocks than one that serves.
  void warm_up(const step_arguments& step) {
    const auto start = std::chrono::steady_clock::now();
    while (std::chrono::steady_clock::now() - start < std::chrono::milliseconds(500)) {
      in_a_row(step, 20);
    }
  }

  timing on_device(const step_arguments& step, int runs) {
    std::vector<double> us;
    for (int i = 0; i < runs + 5; ++i) {
      check(cudaEventRecord(first_, stream_), "record");
      check(launch(model_.host.size.shape, step, stream_));
      check(cudaEventRecord(last_, stream_), "record");
      check(cudaEventSynchronize(last_), "step");
      float ms = 0;
      check(cudaEventElapsedTime(&ms, first_, last_), "elapsed");
      if (i >= 5) us.push_back(ms * 1e3);
    }
    return of(us);
  }

  // Steps queued back to back, as with two steps in flight: time a step.
  double in_a_row(const step_arguments& step, int runs) {
    check(cudaEventRecord(first_, stream_), "record");
    for (int i = 0; i < runs; ++i) check(launch(model_.host.size.shape, step, stream_));
    check(cudaEventRecord(last_, stream_), "record");
    check(cudaEventSynchronize(last_), "steps");
    float ms = 0;
    check(cudaEventElapsedTime(&ms, first_, last_), "elapsed");
    return ms * 1e3 / runs;
  }

  // From the call to launch until the host has seen the last lane's record.
  timing to_host(step_arguments step, int runs) {
    std::vector<double> us;
    for (int i = 0; i < runs + 5; ++i) {
      for (int l = 0; l < step.lanes; ++l) step.lane[l].step = ++step_number_;
      const auto start = std::chrono::steady_clock::now();
      check(launch(model_.host.size.shape, step, stream_));
      for (int l = 0; l < step.lanes; ++l) {
        const ring_record* record = step.lane[l].ring + step.lane[l].rows - 1;
        while (__atomic_load_n(&record->step, __ATOMIC_ACQUIRE) != step.lane[l].step) {
          if (std::chrono::steady_clock::now() - start > std::chrono::seconds(5)) {
            std::printf("no record came\n");
            std::exit(1);
          }
        }
      }
      const std::chrono::duration<double, std::micro> took =
          std::chrono::steady_clock::now() - start;
      if (i >= 5) us.push_back(took.count());
      check(cudaStreamSynchronize(stream_), "step");
    }
    return of(us);
  }

  void phases(step_arguments step) {
    foretoken::cluster_test::on_device<long long> cycles(64);
    check(cudaMemset(cycles.at, 0, 512), "clear");
    step.cycles = cycles.at;
    for (int i = 0; i < 3; ++i) check(launch(model_.host.size.shape, step, stream_));
    check(cudaStreamSynchronize(stream_), "steps");
    const std::vector<long long> at = cycles.read();
    const char* const names[] = {"wait x", "qkv product", "qkv finish",      "wait q",
                                 "attend", "wait spans",  "merge",           "wait o",
                                 "o",      "wait x",      "gate-up product", "gate-up finish",
                                 "wait h", "down"};
    constexpr int laps = 14;
    for (int i = 0; i < laps && at[i + 1] != 0; ++i) {
      std::printf("%s %lld, ", names[i], at[i + 1] - at[i]);
    }
    std::printf("whole layer %lld cycles\n", at[laps] - at[0]);
  }

 private:
  const uploaded_model& model_;
  const kv_pool& pool_;
  cudaStream_t stream_{};
  cudaEvent_t first_{}, last_{};
  ring_record* ring_ = nullptr;
  std::uint32_t step_number_ = 0;
};

struct choice {
  std::vector<int> lanes{1, 4, 7}, rows{1, 2, 4, 8}, contexts{128, 512, 2048};
};

void table(const choice& of) {
  const random_model model(model_shape::smollm2_135m, true, 1);
  const uploaded_model uploaded(model);
  const kv_pool pool(model.size, of.lanes.back() * of.rows.back(), of.contexts.back());
  check(prepare(model_shape::smollm2_135m));
  step_bench bench(uploaded, pool);
  const double weight_bytes = double(uploaded.layers.count) + double(uploaded.head.count);
  const double kv_row = 2.0 * model.size.layers * model.size.kv_heads * head_dim * 2;
  bench.warm_up(bench.arguments(of.lanes.back(), of.rows.back(), of.contexts.front()));
  for (int rows : {of.rows.front(), of.rows.back()}) {
    std::printf("phases of a layer, block 0, 1 lane, %d rows, context 512: ", rows);
    bench.phases(bench.arguments(1, rows, std::min(512, of.contexts.back())));
  }
  std::printf(
      "lanes rows ctx | device us (best) | in a row us | launch to ring us | tokens/s | of byte "
      "floor\n");
  for (int lanes : of.lanes) {
    for (int rows : of.rows) {
      for (int context : of.contexts) {
        const step_arguments step = bench.arguments(lanes, rows, context);
        const timing device = bench.on_device(step, 40);
        const double row = bench.in_a_row(step, 40);
        const timing host = bench.to_host(step, 40);
        // One pass over the weights for all lanes and every row's keys and values, at 3.0 TB/s.
        const double floor_us = (weight_bytes + double(lanes) * rows * context * kv_row) / 3.0e6;
        std::printf("%d %d %4d | %6.1f (%6.1f) | %6.1f | %6.1f | %7.0f | %.2f\n", lanes, rows,
                    context, device.median_us, device.best_us, row, host.median_us,
                    lanes * rows / row * 1e6, floor_us / row);
      }
    }
  }
}

}  // namespace
}  // namespace foretoken::cluster_test

int main(int argc, char** argv) {
  using namespace foretoken::cluster_test;
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  cudaDeviceProp properties{};
  if (cudaGetDeviceProperties(&properties, 0) != cudaSuccess || properties.major != 9) return 77;
  std::printf("%s, %d multiprocessors\n", properties.name, properties.multiProcessorCount);
  choice of;
  if (argc == 4) of = {{std::atoi(argv[1])}, {std::atoi(argv[2])}, {std::atoi(argv[3])}};
  if (argc == 2 && std::string(argv[1]) == "--smoke") of = {{1}, {1}, {512}};
  table(of);
  return 0;
}
