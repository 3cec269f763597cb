// SPDX-License-Identifier: Apache-2.0
// The cluster-resident step against a double precision step, and against itself: a row's bits may
// not depend on its lane, on the rows beside it or on their lengths. Needs a GPU of compute
// capability 9; exits 77 without one. Arguments: none = everything; "tiny" = the small shape alone;
// "once" = three steps of it, of eight rows, ten and one, for the slower checks of
// compute-sanitizer.
#include <algorithm>
#include <string>

#include "tests/kernels/cluster_model.cuh"

namespace foretoken::cluster_test {
namespace {

struct sequence_row {
  int sequence, token, position;
};

struct outcome {
  std::vector<float> logits;  // [rows in order][vocabulary]
  std::vector<ring_record> records;
  std::uint32_t clamped = 0;            // of all lanes
  std::vector<std::uint16_t> appended;  // [rows][layer][kv head][key 64, value 64]
};

class bench_step {
 public:
  bench_step(const uploaded_model& model, const kv_pool& pool)
      : model_(model),
        pool_(pool),
        size_(model.host.size),
        logits_(std::size_t(7) * lane_rows_most * size_.vocabulary) {
    check(cudaMallocHost(&ring_, sizeof(ring_record) * 7 * lane_rows_most), "ring");
  }
  ~bench_step() { cudaFreeHost(ring_); }

  // One launch; lanes[i] = rows of lane i (an empty lane is left out: lanes move up).
  outcome run(const std::vector<std::vector<sequence_row>>& lanes) {
    pool_.fill();
    check(cudaMemset(logits_.at, 0xFF, logits_.count * 4), "poison");
    std::memset(ring_, 0, sizeof(ring_record) * 7 * lane_rows_most);
    step_arguments step;
    step.model = model_.view();
    step.kv = pool_.values.at;
    step.pages = pool_.pages;
    step.page_tables = pool_.tables.at;
    step.table_stride = pool_.pages_each;
    step.clamped = clamped_.at;
    check(cudaMemset(clamped_.at, 0, 4), "clear");
    step.lanes = static_cast<int>(lanes.size());
    for (std::size_t i = 0; i < lanes.size(); ++i) {
      lane_rows& lane = step.lane[i];
      lane.rows = static_cast<int>(lanes[i].size());
      lane.step = 5;
      lane.ring = ring_ + i * lane_rows_most;
      lane.logits = logits_.at + i * lane_rows_most * std::size_t(size_.vocabulary);
      for (int r = 0; r < lane.rows; ++r) {
        lane.token[r] = lanes[i][r].token;
        lane.position[r] = lanes[i][r].position;
        lane.table[r] = lanes[i][r].sequence;
      }
    }
    check(launch(size_.shape, step, nullptr));
    check(cudaDeviceSynchronize(), "step");
    return collect(lanes);
  }

 private:
  outcome collect(const std::vector<std::vector<sequence_row>>& lanes) {
    const std::vector<float> logits = logits_.read();
    const std::vector<std::uint16_t> pool = pool_.values.read();
    outcome out;
    out.clamped = clamped_.read()[0];
    for (std::size_t i = 0; i < lanes.size(); ++i) {
      for (std::size_t r = 0; r < lanes[i].size(); ++r) {
        const float* from =
            logits.data() + (i * lane_rows_most + r) * std::size_t(size_.vocabulary);
        out.logits.insert(out.logits.end(), from, from + size_.vocabulary);
        out.records.push_back(ring_[i * lane_rows_most + r]);
        append_lines(out, pool, lanes[i][r]);
      }
    }
    return out;
  }
  void append_lines(outcome& out, const std::vector<std::uint16_t>& pool, const sequence_row& row) {
    const history past{size_, pool_, pool};
    for (int layer = 0; layer < size_.layers; ++layer) {
      for (int h = 0; h < size_.kv_heads; ++h) {
        for (int i = 0; i < 2 * head_dim; ++i) {
          out.appended.push_back(float_to_f16(static_cast<float>(
              past.get(layer, h, i >= head_dim, row.sequence, row.position, i % head_dim))));
        }
      }
    }
  }

  const uploaded_model& model_;
  const kv_pool& pool_;
  const dimensions& size_;
  on_device<float> logits_;
  on_device<std::uint32_t> clamped_{1};
  ring_record* ring_ = nullptr;
};

int failures = 0;
void report(bool good, const std::string& what) {
  std::printf("%s %s\n", good ? "ok  " : "FAIL", what.c_str());
  failures += good ? 0 : 1;
}

// Bits of row `a` of one outcome and row `b` of another.
bool same_bits(const dimensions& size,
               const outcome& one,
               std::size_t a,
               const outcome& other,
               std::size_t b) {
  const std::size_t v = size.vocabulary;
  const std::size_t lines = std::size_t(size.layers) * size.kv_heads * 2 * head_dim;
  return std::memcmp(&one.logits[a * v], &other.logits[b * v], v * 4) == 0 &&
         std::memcmp(&one.appended[a * lines], &other.appended[b * lines], lines * 2) == 0 &&
         one.records[a].token == other.records[b].token;
}

void against_reference(const random_model& model,
                       const kv_pool& pool,
                       const std::vector<std::uint16_t>& before,
                       const outcome& got,
                       std::size_t index,
                       const sequence_row& row) {
  const history past{model.size, pool, before};
  const std::vector<double> want =
      reference_step(model, past, row.sequence, row.token, row.position);
  double difference = 0, norm = 0;
  int best = 0;
  for (int i = 0; i < model.size.vocabulary; ++i) {
    const double is = got.logits[index * std::size_t(model.size.vocabulary) + i];
    difference += (is - want[i]) * (is - want[i]);
    norm += want[i] * want[i];
    if (want[i] > want[best]) best = i;
  }
  const double error = std::sqrt(difference / norm);
  const ring_record& record = got.records[index];
  const float* const logits = &got.logits[index * std::size_t(model.size.vocabulary)];
  const auto first_best = std::max_element(logits, logits + model.size.vocabulary);  // lowest id
  const bool chosen = record.token == first_best - logits && record.logit == *first_best;
  std::string text = "position " + std::to_string(row.position) + ": error " +
                     std::to_string(error) + ", token " + std::to_string(record.token) +
                     " (reference " + std::to_string(best) + "), clamped " +
                     std::to_string(record.clamped);
  report(error < 4e-3 && record.step == 5 && record.clamped == 0 && chosen, text);
}

// Gains so large that queries, keys and values do not fit f16: both counters say so, and no other
// step's.
void test_clamped(model_shape shape) {
  random_model model(shape, false, 99);
  for (int i = 0; i < model.size.width; ++i) model.gains[std::size_t(i)] *= 1e6f;
  const uploaded_model uploaded(model);
  const kv_pool pool(model.size, 2, 64);
  bench_step step(uploaded, pool);
  const outcome got = step.run({{{0, 3, 5}}, {{1, 4, 6}}});
  const std::uint32_t one = got.records[0].clamped, other = got.records[1].clamped;
  report(one > 0 && other > 0 && got.clamped == one + other,
         "clamped values: " + std::to_string(one) + " and " + std::to_string(other) + ", in all " +
             std::to_string(got.clamped));
}

void test_rows(const uploaded_model& uploaded,
               const std::vector<int>& positions,
               int references,
               bool once) {
  const random_model& model = uploaded.host;
  const int context = *std::max_element(positions.begin(), positions.end()) + 1;
  const int count = int(positions.size());
  const kv_pool pool(model.size, count, context);
  const std::vector<std::uint16_t> before = pool.values.read();
  std::vector<sequence_row> rows;
  for (int i = 0; i < count; ++i)
    rows.push_back({i, (i * 7919 + 13) % model.size.vocabulary, positions[std::size_t(i)]});

  bench_step step(uploaded, pool);
  const outcome all = step.run({rows});
  for (int i = 0; i < references; ++i) {
    const int which = (i * 7 + 6) % count;
    against_reference(model, pool, before, all, which, rows[which]);
  }
  if (once) return;
  const outcome again = step.run({rows});
  bool same = true;
  for (int i = 0; i < count; ++i) same &= same_bits(model.size, all, i, again, i);
  report(same, "the same step twice has the same bits");

  const std::string of_all = " of " + std::to_string(count);
  std::vector<std::vector<sequence_row>> single;
  for (int i = 0; i < 7; ++i) single.push_back({rows[i]});
  const outcome alone = step.run(single);
  for (int i = 0; i < 7; ++i) {
    report(same_bits(model.size, all, i, alone, i),
           "row " + std::to_string(i) + of_all + " = alone in lane " + std::to_string(i));
  }
  const outcome reversed =
      step.run({{rows[7]}, {rows[2]}, {rows[6], rows[5], rows[0]}, {rows[3], rows[1]}});
  const int order[7] = {7, 2, 6, 5, 0, 3, 1};
  for (int i = 0; i < 7; ++i) {
    report(same_bits(model.size, all, order[i], reversed, i),
           "row " + std::to_string(order[i]) + of_all + " = in other company");
  }
  const outcome back = step.run({{rows.rbegin(), rows.rend()}});
  same = true;
  for (int i = 0; i < count; ++i) same &= same_bits(model.size, all, i, back, count - 1 - i);
  report(same, "the rows in the other order have the same bits");
}

// `references` rows of eight against the double precision step, of short ones and of short and long
// ones mixed, and of ten; `once`: of one, neither of long ones nor a second time.
void test_shape(model_shape shape, bool neighbours, int references, bool once = false) {
  const random_model model(shape, neighbours, 1234);
  const uploaded_model uploaded(model);
  check(prepare(shape));
  const auto lanes = lanes_of_device(shape);
  check(lanes ? status{} : status{lanes.error()});
  std::printf("%s, %s rope, clusters at once: %d\n",
              shape == model_shape::tiny ? "tiny" : "SmolLM2-135M",
              neighbours ? "neighbour" : "half", lanes.value());
  test_rows(uploaded, {0, 15, 16, 255, 256, 511, 777, 64}, references, once);
  test_rows(uploaded, {0, 511, 16, 255, 256, 511, 767, 64, 512, 767}, references, once);
  if (once) {
    test_rows(uploaded, {300}, 1, once);  // most blocks attend to nothing
    return;
  }
  test_rows(uploaded, {256, 15, 0, 2047, 1023, 2047, 1800, 1800}, references, false);
  test_clamped(shape);
}

}  // namespace
}  // namespace foretoken::cluster_test

int main(int argc, char** argv) {
  using namespace foretoken::cluster_test;
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  int devices = 0;
  cudaDeviceProp properties{};
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) return 77;
  check(cudaGetDeviceProperties(&properties, 0), "properties");
  std::printf("%s\n", properties.name);
  if (properties.major != 9) {
    std::printf("skipped: needs compute capability 9\n");
    return 77;
  }
  const bool once = argc > 1 && std::string(argv[1]) == "once";
  test_shape(model_shape::tiny, false, 8, once);
  if (!once) test_shape(model_shape::tiny, true, 8);
  if (argc < 2) test_shape(model_shape::smollm2_135m, true, 2);
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
