// SPDX-License-Identifier: Apache-2.0
// Time of the cluster-resident step as the backend queues it, embedding to sampled token in host
// memory: lanes x rows x context. Random weights of SmolLM2-135M's shape, W4 (4-bit codes, f16
// scale and minimum a 32), f16 keys and values. Lanes of a launch start together, so they share
// weights in the L2 cache.
//
//   cluster_step_bench [--head general|own|ring] [--smoke] [LANES ROWS CONTEXT]
//
// Without numbers the table; with them one line of it, ROWS those of each lane, or more than a lane
// takes and then those of all; --smoke = 1 1 512. The head: general, that
// of the general path on all multiprocessors, which finds the best ids in passing, as the backend
// does for greedy steps; own, the launch's on each lane's, whose logits a digest reads, as for
// log-probabilities of many rows; ring, the launch's own, whose record on the host's ring ends the
// step.
// Needs a GPU of compute capability 9; exits 77 without one.
#include <algorithm>
#include <chrono>
#include <numeric>
#include <string>

#include "gpu/kernels.hpp"
#include "gpu/lanes.hpp"
#include "tests/kernels/cluster_model.cuh"

namespace foretoken::cluster_test {
namespace {

enum class head_kind { general, own, ring };

struct timing {
  double median_us, best_us;
};
timing of(std::vector<double> us) {
  std::sort(us.begin(), us.end());
  return {us[us.size() / 2], us[0]};
}

std::vector<std::uint32_t> counted(std::uint32_t count) {
  std::vector<std::uint32_t> out(count);
  std::iota(out.begin(), out.end(), 0u);
  return out;
}

constexpr int rows_at_once = lanes_at_once * lane_rows_most;
constexpr std::uint32_t numbers = 4096;  // of steps that are waited for

// What follows the launch: the general path's head and digest, and the word to the host.
class step_end {
 public:
  explicit step_end(const uploaded_model& model)
      : head_({model.host.head.get()}, gpu::plain_order(model.host.size.vocabulary)),
        which_(std::vector<std::int32_t>(rows_at_once)),
        number_(counted(numbers)),
        logits_(std::size_t(rows_at_once) * head_.view.rows),
        scratch_(zeroed<std::byte>(gpu::digest_scratch_bytes(rows_at_once, head_.view.rows))),
        vocabulary_(model.host.size.vocabulary) {
    std::vector<std::int32_t> all(rows_at_once);
    std::iota(all.begin(), all.end(), 0);
    check(cudaMemcpy(which_.at, all.data(), all.size() * 4, cudaMemcpyHostToDevice), "rows");
    const std::size_t width = std::size_t(gpu::padded_columns(model.host.size.width));
    work_.normed = zeroed<std::uint16_t>(rows_at_once * width * 2);
    work_.squares = zeroed<float>(rows_at_once * width / 16 * 4);
    norm_.weight = model.gains.at + std::size_t(2) * model.host.size.layers * model.host.size.width;
    norm_.epsilon = 1e-5f;
    check(cudaMallocHost(&digests_, sizeof(gpu::logits_digest) * rows_at_once), "digests");
    check(cudaMallocHost(&flag_, sizeof(*flag_)), "flag");
  }
  ~step_end() {
    cudaFreeHost(digests_);
    cudaFreeHost(flag_);
  }
  step_end(const step_end&) = delete;

  // What the launch leaves for it.
  void prepare(step_arguments& step, bool general) const {
    if (general) {
      step.normed = work_.normed;
      step.normed_stride = gpu::padded_columns(head_.view.columns);
      step.squares = work_.squares;
    }
    for (int l = 0, first = 0; l < step.lanes; first += step.lane[l++].rows) {
      step.lane[l].first = first;
      step.lane[l].ring = nullptr;
      if (!general) step.lane[l].logits = logits_.at + std::size_t(first) * head_.view.rows;
    }
  }
  void queue(cudaStream_t stream, int rows, bool general, std::uint32_t number) const {
    gpu::launch_context on;
    on.stream = stream;
    on.wide_mma = true;
    if (general) {
      gpu::head_arguments head;
      head.rows = head.rows_of_x = rows;
      head.which = which_.at;
      head.work = work_;
      head.norm = norm_;
      head.matrix = head_.view;
      head.best = gpu::best_logits_in(scratch_, vocabulary_);
      check(gpu::launch_head(on, head));
    }
    check(gpu::launch_digest(on, {rows,
                                  logits_.at,
                                  vocabulary_,
                                  head_.view.rows,
                                  general ? 0 : 1,
                                  scratch_,
                                  digests_,
                                  nullptr,
                                  {number_.at + number, flag_}}));
  }
  const std::uint32_t* flag() const { return flag_; }

 private:
  general_matrix head_;
  on_device<std::int32_t> which_;
  on_device<std::uint32_t> number_;
  on_device<float> logits_;
  std::byte* scratch_;
  int vocabulary_;
  gpu::workspace work_;
  gpu::norm_parameters norm_;
  gpu::logits_digest* digests_ = nullptr;
  std::uint32_t* flag_ = nullptr;
};

class step_bench {
 public:
  step_bench(const uploaded_model& model, const kv_pool& pool, head_kind head)
      : model_(model), pool_(pool), end_(model), head_(head) {
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream");
    check(cudaEventCreate(&first_), "event");
    check(cudaEventCreate(&last_), "event");
    check(cudaMallocHost(&ring_, sizeof(ring_record) * rows_at_once), "ring");
  }

  // `rows` of all lanes.
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
      const gpu::row_range own = gpu::part_of({0, rows}, i, lanes);
      lane.rows = own.count();
      lane.ring = ring_ + i * lane_rows_most;
      for (int r = 0; r < lane.rows; ++r) {
        lane.token[r] = (i * 131 + r * 17) % model_.host.size.vocabulary;
        lane.position[r] = context - 1;
        lane.table[r] = (own.first + r) % pool_.sequences;
      }
    }
    if (head_ != head_kind::ring) end_.prepare(step, general());
    return step;
  }
  bool general() const { return head_ == head_kind::general; }
  const char* head_name() const {
    return head_ == head_kind::ring ? "ring" : general() ? "general" : "own";
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
      queue(step, 0);
      check(cudaEventRecord(last_, stream_), "record");
      const double took = elapsed_us();
      if (i >= 5) us.push_back(took);
    }
    return of(us);
  }

  // Steps queued back to back, as with two steps in flight: time a step.
  double in_a_row(const step_arguments& step, int runs) {
    check(cudaEventRecord(first_, stream_), "record");
    for (int i = 0; i < runs; ++i) queue(step, 0, i > 0);
    check(cudaEventRecord(last_, stream_), "record");
    return elapsed_us() / runs;
  }

  // From the call to launch until the host has seen the step's end.
  timing to_host(step_arguments step, int runs) {
    std::vector<double> us;
    for (int i = 0; i < runs + 5; ++i) {
      step_number_ = step_number_ % (numbers - 1) + 1;
      for (int l = 0; l < step.lanes; ++l) step.lane[l].step = step_number_;
      const auto start = std::chrono::steady_clock::now();
      queue(step, step_number_);
      if (head_ != head_kind::ring) see(*end_.flag(), start);
      for (int l = 0; l < step.lanes && head_ == head_kind::ring; ++l) {
        see(step.lane[l].ring[step.lane[l].rows - 1].step, start);
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
  static int rows_of(const step_arguments& step) {
    int rows = 0;
    for (int l = 0; l < step.lanes; ++l) rows += step.lane[l].rows;
    return rows;
  }
  void queue(step_arguments step, std::uint32_t number, bool dependent = false) {
    step.dependent = dependent;
    check(launch(model_.host.size.shape, step, stream_));
    if (head_ != head_kind::ring) end_.queue(stream_, rows_of(step), general(), number);
  }
  double elapsed_us() {
    check(cudaEventSynchronize(last_), "steps");
    float ms = 0;
    check(cudaEventElapsedTime(&ms, first_, last_), "elapsed");
    return ms * 1e3;
  }
  void see(const std::uint32_t& flag, std::chrono::steady_clock::time_point start) const {
    while (__atomic_load_n(&flag, __ATOMIC_ACQUIRE) != step_number_) {
      if (std::chrono::steady_clock::now() - start > std::chrono::seconds(5)) {
        std::printf("the end of a step did not come\n");
        std::exit(1);
      }
    }
  }

  const uploaded_model& model_;
  const kv_pool& pool_;
  step_end end_;
  head_kind head_;
  cudaStream_t stream_{};
  cudaEvent_t first_{}, last_{};
  ring_record* ring_ = nullptr;
  std::uint32_t step_number_ = 0;
};

struct work {
  int lanes, rows;  // of all lanes
};
struct choice {
  std::vector<work> steps;
  std::vector<int> contexts{128, 512, 2048};
  head_kind head = head_kind::general;
};
std::vector<work> work_of_table() {
  std::vector<work> out;
  for (const int lanes : {1, 4, 7}) {
    for (const int rows : {1, 2, 4, 8}) out.push_back({lanes, lanes * rows});
  }
  out.push_back({lanes_at_once, 64});
  return out;
}

bool fits(const step_arguments& step) {
  return lanes_fit(model_shape::smollm2_135m, {step.lane, std::size_t(step.lanes)});
}

void table(const choice& of) {
  const random_model model(model_shape::smollm2_135m, true, 1);
  const uploaded_model uploaded(model);
  const work most = of.steps.back();
  const kv_pool pool(model.size, most.rows, of.contexts.back());
  check(prepare(model_shape::smollm2_135m));
  step_bench bench(uploaded, pool, of.head);
  const double weight_bytes = double(uploaded.layers.count) + double(uploaded.head.count);
  const double kv_row = 2.0 * model.size.layers * model.size.kv_heads * head_dim * 2;
  if (!fits(bench.arguments(most.lanes, most.rows, of.contexts.front()))) {
    std::printf("%d rows are more, or longer ones, than %d lanes take\n", most.rows, most.lanes);
    return;
  }
  bench.warm_up(bench.arguments(most.lanes, most.rows, of.contexts.front()));
  for (const work& one : {of.steps.front(), most}) {
    std::printf("phases of a layer, block 0, %d lanes, %d rows: ", one.lanes, one.rows);
    bench.phases(bench.arguments(one.lanes, one.rows, of.contexts.front()));
  }
  std::printf(
      "lanes rows (of all) ctx | device us (best) | in a row us | launch to host us | tokens/s | "
      "of byte "
      "floor | head\n");
  for (const work& one : of.steps) {
    for (const int context : of.contexts) {
      const step_arguments step = bench.arguments(one.lanes, one.rows, context);
      if (!fits(step)) continue;
      const timing device = bench.on_device(step, 40);
      const double row = bench.in_a_row(step, 40);
      const timing host = bench.to_host(step, 40);
      // One pass over the weights for all lanes and every row's keys and values, at 3.0 TB/s.
      const double floor_us = (weight_bytes + double(one.rows) * context * kv_row) / 3.0e6;
      std::printf("%d %2d %4d | %6.1f (%6.1f) | %6.1f | %6.1f | %7.0f | %.2f | %s\n", one.lanes,
                  one.rows, context, device.median_us, device.best_us, row, host.median_us,
                  one.rows / row * 1e6, floor_us / row, bench.head_name());
    }
  }
}

head_kind head_of(const std::string& name) {
  if (name == "own") return head_kind::own;
  if (name == "ring") return head_kind::ring;
  if (name == "general") return head_kind::general;
  std::fprintf(stderr, "--head: own, ring or general, not %s\n", name.c_str());
  std::exit(2);
}

// No numbers: the table. Three: one line of it, within what a launch and the random model hold.
bool choose_size(const std::vector<int>& numbers, choice& of) {
  of.steps = work_of_table();
  if (numbers.empty()) return true;
  const auto within = [](int value, int most) { return value >= 1 && value <= most; };
  if (numbers.size() != 3 || !within(numbers[0], lanes_at_once) ||
      !within(numbers[1], numbers[0] * lane_rows_most) ||
      !within(numbers[2], random_model::context)) {
    return false;
  }
  of.steps = {{numbers[0], numbers[1] <= lane_rows_most ? numbers[0] * numbers[1] : numbers[1]}};
  of.contexts = {numbers[2]};
  return true;
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
  std::vector<int> numbers;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--smoke") {
      numbers = {1, 1, 512};
    } else if (word == "--head" && i + 1 < argc) {
      of.head = head_of(argv[++i]);
    } else {
      numbers.push_back(std::atoi(argv[i]));
    }
  }
  if (!choose_size(numbers, of)) {
    std::fprintf(stderr, "LANES ROWS CONTEXT: up to %d, %d and %d\n", lanes_at_once, lane_rows_most,
                 random_model::context);
    return 2;
  }
  table(of);
  return 0;
}
