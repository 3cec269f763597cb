// SPDX-License-Identifier: Apache-2.0
// Attention over pages, f16 and int8: against float64, and a query's bits as a prefill row, a
// decode row, in any tile and whatever lies behind its position.
#include <algorithm>

#include <doctest/doctest.h>

#include "gpu/attention_tiles.hpp"
#include "tests/kernels/matrices.hpp"

namespace foretoken {
namespace {

using test::at;
using test::device_array;
using test::made_workspace;
using test::random_source;
using test::read_device;

struct attention_shape {
  int heads, kv_heads, head_dim, window;
  float softcap;
};
constexpr attention_shape attention_shapes[] = {
    {9, 3, 64, 0, 0}, {2, 2, 32, 0, 0},    {4, 1, 128, 0, 0},  {7, 1, 64, 20, 0},
    {8, 1, 32, 0, 5}, {4, 1, 256, 600, 0}, {12, 1, 16, 3, 20}, {6, 2, 96, 0, 0},
};

// One sequence's rows: positions [before, before + rows).
struct part {
  int before, rows;
};
const std::vector<std::vector<part>> batches = {
    {{0, 5}, {63, 3}, {30, 1}},
    {{511, 4}, {17, 9}},
    {{1100, 1}, {250, 6}},
};

constexpr gpu::kv_form forms[] = {gpu::kv_form::f16, gpu::kv_form::int8};

// Keys or values of one sequence as they are stored: [position][kv_head][head_dim]; a scale for
// each position and head where there are codes.
struct stored_values {
  std::vector<float> value;
  std::vector<int> code;
  std::vector<float> scale;

  stored_values(gpu::kv_form form, const std::vector<float>& from, int head_dim) {
    for (const float v : from) value.push_back(f16_to_float(float_to_f16(v)));
    for (std::size_t first = 0; form == gpu::kv_form::int8 && first < value.size();
         first += at(head_dim)) {
      float largest = 0;
      for (int i = 0; i < head_dim; ++i) {
        largest = std::max(largest, std::fabs(value[first + at(i)]));
      }
      scale.push_back(f16_to_float(float_to_f16(largest / 127)));
      for (int i = 0; i < head_dim; ++i) {
        float& v = value[first + at(i)];
        code.push_back(std::clamp(static_cast<int>(std::lround(v / scale.back())), -127, 127));
        v = static_cast<float>(code.back()) * scale.back();
      }
    }
  }
};

class paged_case {
 public:
  paged_case(const attention_shape& shape, const std::vector<part>& parts, gpu::kv_form form)
      : shape_(shape),
        form_(form),
        random_(static_cast<unsigned>(shape.heads * 100 + shape.head_dim)) {
    int page = 0;
    for (const part& one : parts) {
      const int end = one.before + one.rows;
      const std::size_t size = at(end * shape.kv_heads * shape.head_dim);
      const auto k = random_.normals(size), v = random_.normals(size);
      sequence made{one, {}, {form, k, shape.head_dim}, {form, v, shape.head_dim}};
      for (int i = 0; i * 16 < end; ++i) made.pages.push_back((page++ * 7) % pages_max);
      for (int i = 0; i < one.rows; ++i) {
        for (int h = 0; h < shape.heads; ++h) {
          const auto q = halves(random_.normals(at(shape.head_dim), 0.3f));
          q_.insert(q_.end(), q.begin(), q.end());
        }
        positions_.push_back(one.before + i);
        tables_.push_back(static_cast<std::int32_t>(sequences_.size()));
      }
      sequences_.push_back(std::move(made));
    }
  }
  int rows() const { return static_cast<int>(positions_.size()); }

  // Rows [first, first + count) with tiles of up to tile_rows; positions after the last one hold
  // junk.
  std::vector<float> run(int first,
                         int count,
                         int tile_rows,
                         int positions_max = 0,
                         int columns = gpu::query_columns) {
    const device_array<std::uint16_t> pool(fill(first + count - 1));
    std::vector<std::int32_t> pages(sequences_.size() * stride, 0);
    for (std::size_t s = 0; s < sequences_.size(); ++s) {
      std::copy(sequences_[s].pages.begin(), sequences_[s].pages.end(),
                pages.begin() + static_cast<int>(s * stride));
    }
    std::vector<gpu::attention_tile> tiles;
    for (int r = 0; r < count; ++r) {
      const bool joins = r > 0 && tables_[at(first + r)] == tables_[at(first + r - 1)] &&
                         tiles.back().count < tile_rows;
      if (joins) {
        ++tiles.back().count;
      } else {
        tiles.push_back({r, 1});
      }
    }
    tiles.push_back({0, 0});
    const auto slice = [&](const auto& all, int each) {
      using value = typename std::decay_t<decltype(all)>::value_type;
      return std::vector<value>(all.begin() + first * each, all.begin() + (first + count) * each);
    };
    const device_array<std::int32_t> positions(slice(positions_, 1)), tables(slice(tables_, 1)),
        page_array(pages);
    if (columns != gpu::query_columns) gpu::order_tiles(tiles, &positions_[at(first)]);
    const device_array<gpu::attention_tile> tile_array(tiles);
    model::hyperparameters hyper;
    hyper.heads = shape_.heads;
    hyper.kv_heads = shape_.kv_heads;
    hyper.head_dim = shape_.head_dim;
    made_workspace work(hyper, count + 1, 2048);
    const auto q = slice(q_, shape_.heads * shape_.head_dim);
    test::device_write(work.view.q, q.data(), q.size() * 2);
    gpu::attention_arguments given;
    given.rows = {nullptr, positions.get(), tables.get(), page_array.get(), stride, count};
    given.work = work.view;
    given.tiles = tile_array.get();
    given.tile_count = static_cast<int>(tiles.size());
    given.columns = columns;
    given.spans_max = positions_max > 0 ? gpu::attention_spans(positions_max) : 6;
    given.positions_max = positions_max;
    given.heads = shape_.heads;
    given.kv_heads = shape_.kv_heads;
    given.head_dim = shape_.head_dim;
    given.window = shape_.window;
    given.softcap = shape_.softcap;
    given.kv = pool.get();
    given.form = form_;
    const status done = gpu::launch_attention(test::device_context(), given);
    REQUIRE_MESSAGE(done, (done ? "" : to_string(done.error())));
    const auto arrived = read_device(work.view.arrived, at(shape_.kv_heads));
    for (const std::uint32_t left : arrived) CHECK(left == 0);
    return test::get_halves(work.view.attended, count, shape_.heads * shape_.head_dim);
  }

  // All rows in tiles of so many columns.
  std::vector<float> run_columns(int columns) {
    return run(0, rows(), gpu::attention_tile_rows(shape_.heads, shape_.kv_heads, columns), 0,
               columns);
  }

  // Whether the device has room for large tiles of so many columns.
  bool has_columns(int columns) const {
    gpu::attention_arguments given;
    given.heads = shape_.heads;
    given.kv_heads = shape_.kv_heads;
    given.head_dim = shape_.head_dim;
    return gpu::has_large_tiles(test::device_context(), given, columns);
  }

  // Relative to the float64 softmax, over every fifth value.
  double error_of(const std::vector<float>& got) const {
    const int each = shape_.heads * shape_.head_dim;
    double off = 0, all = 0;
    for (int r = 0; r < rows(); ++r) {
      for (int i = 0; i < each; i += 5) {
        const double e = expected(r, i / shape_.head_dim, i % shape_.head_dim);
        const double d = static_cast<double>(got[at(r * each + i)]) - e;
        off += d * d;
        all += e * e;
      }
    }
    return std::sqrt(off / all);
  }

 private:
  double expected(int row, int head, int d) const {
    const sequence& from = sequences_[at(tables_[at(row)])];
    const int position = positions_[at(row)];
    const int kv = head / (shape_.heads / shape_.kv_heads);
    const int first = shape_.window > 0 ? std::max(0, position - shape_.window + 1) : 0;
    double sum = 0, total = 0;
    for (int t = first; t <= position; ++t) {
      double score = 0;
      for (int i = 0; i < shape_.head_dim; ++i) {
        score +=
            value(q_[at((row * shape_.heads + head) * shape_.head_dim + i)]) *
            static_cast<double>(from.k.value[at((t * shape_.kv_heads + kv) * shape_.head_dim + i)]);
      }
      const double cap = static_cast<double>(shape_.softcap);
      if (cap > 0) score = cap * std::tanh(score / cap);
      total += std::exp(score);
      sum +=
          std::exp(score) *
          static_cast<double>(from.v.value[at((t * shape_.kv_heads + kv) * shape_.head_dim + d)]);
    }
    return sum / total;
  }

  static constexpr int pages_max = 150;  // no multiple of 7
  static constexpr int stride = 80;
  struct sequence {
    part rows;
    std::vector<int> pages;
    stored_values k, v;
  };
  static double value(std::uint16_t half) { return static_cast<double>(f16_to_float(half)); }
  static std::vector<std::uint16_t> halves(const std::vector<float>& from) {
    std::vector<std::uint16_t> out;
    for (const float v : from) out.push_back(float_to_f16(v));
    return out;
  }
  // Where (row, column) of a 16 x 16 A fragment stands, from the PTX manual's figure.
  static int in_fragment(int row, int column) {
    for (int lane = 0; lane < 32; ++lane) {
      for (int j = 0; j < 8; ++j) {
        const int r = lane / 4 + (j / 2 % 2 == 1 ? 8 : 0);
        const int c = lane % 4 * 2 + j % 2 + (j >= 4 ? 8 : 0);
        if (r == row && c == column) return lane * 8 + j;
      }
    }
    return -1;
  }
  // One position's key or value of a head: `first` of the head's part of the page.
  void put(
      std::uint16_t* first, int t, bool is_value, const stored_values& from, std::size_t source) {
    const int dim = shape_.head_dim;
    for (int d = 0; d < dim; ++d) {
      const int place = (is_value ? 16 * dim : 0) + d / 16 * 256 +
                        (is_value ? in_fragment(d % 16, t % 16) : in_fragment(t % 16, d % 16));
      const std::size_t n = source * at(dim) + at(d);
      if (form_ == gpu::kv_form::f16) {
        first[place] = float_to_f16(from.value[n]);
      } else {
        reinterpret_cast<unsigned char*>(first)[place] =
            static_cast<unsigned char>(128 + from.code[n]);
      }
    }
    if (form_ == gpu::kv_form::f16) return;
    first[16 * dim + (is_value ? 16 : 0) + t % 16] = float_to_f16(from.scale[source]);
  }
  std::vector<std::uint16_t> fill(int last_row) {
    const std::size_t each = gpu::kv_head_values(form_, shape_.head_dim);
    std::vector<std::uint16_t> pool(at(pages_max * shape_.kv_heads) * each);
    for (auto& v : pool) v = float_to_f16(random_.normal(100));
    for (std::size_t s = 0; s < sequences_.size(); ++s) {
      const sequence& from = sequences_[s];
      int end = from.rows.before + from.rows.rows;
      if (tables_[at(last_row)] == static_cast<int>(s)) end = positions_[at(last_row)] + 1;
      for (int t = 0; t < end; ++t) {
        for (int h = 0; h < shape_.kv_heads; ++h) {
          std::uint16_t* const first =
              pool.data() + at(from.pages[at(t / 16)] * shape_.kv_heads + h) * each;
          const std::size_t source = at(t * shape_.kv_heads + h);
          put(first, t, false, from.k, source);
          put(first, t, true, from.v, source);
        }
      }
    }
    return pool;
  }
  attention_shape shape_;
  gpu::kv_form form_;
  random_source random_;
  std::vector<sequence> sequences_;
  std::vector<std::uint16_t> q_;
  std::vector<std::int32_t> positions_, tables_;
};

void check_case(const attention_shape& shape, const std::vector<part>& parts, gpu::kv_form form) {
  for (int pass = 0; pass < test::device_passes(); ++pass) {
    test::begin_pass(pass);
    paged_case one(shape, parts, form);
    const auto whole = one.run_columns(gpu::query_columns);
    const int each = shape.heads * shape.head_dim;
    if (pass == 0) CHECK(one.error_of(whole) < 1e-3);
    CHECK(one.run(0, one.rows(), 1) == whole);
    for (int r = pass % 3; r<one.rows(); r += test::device_passes()> 1 ? 5 : 1) {
      CAPTURE(r);
      const auto alone = one.run(r, 1, 1);
      CHECK(std::equal(alone.begin(), alone.end(), whole.begin() + r * each));
    }
  }
}

TEST_CASE("attention: the float64 softmax, with the same bits in any tile, as prefill or decode") {
  for (const gpu::kv_form form : forms) {
    for (const attention_shape& shape : attention_shapes) {
      for (const auto& parts : batches) {
        CAPTURE(form);
        CAPTURE(shape.heads);
        CAPTURE(shape.head_dim);
        CAPTURE(parts[0].before);
        check_case(shape, parts, form);
      }
    }
  }
}

// More tiles than a device runs blocks at once.
TEST_CASE("attention: a tile has its bits in a block of its own and beside others") {
  struct short_batch {
    int positions_max;
    std::vector<part> parts;
  };
  const short_batch short_batches[] = {{64, {{0, 40}, {20, 41}, {3, 30}}},
                                       {256, {{200, 50}, {100, 50}, {0, 20}}}};
  for (const attention_shape& shape : {attention_shapes[0], attention_shapes[3]}) {
    for (const short_batch& batch : short_batches) {
      CAPTURE(shape.heads);
      CAPTURE(batch.positions_max);
      for (int pass = 0; pass < test::device_passes(); ++pass) {
        test::begin_pass(pass);
        for (const gpu::kv_form form : forms) {
          paged_case one(shape, batch.parts, form);
          CHECK(one.run(0, one.rows(), 1, batch.positions_max) == one.run(0, one.rows(), 1));
        }
      }
    }
  }
}

// Groups of 1, 3, 4, 8 and others; a tile's rows that do not fill it.
constexpr attention_shape large_shapes[] = {
    {9, 3, 64, 0, 0},  {2, 2, 64, 0, 0},  {4, 1, 64, 0, 0},  {8, 1, 64, 0, 0},  {7, 1, 64, 0, 0},
    {1, 1, 128, 0, 0}, {6, 2, 128, 0, 0}, {4, 1, 128, 0, 0}, {8, 1, 128, 0, 0}, {12, 1, 128, 0, 0},
};
// Around the ends of chunks and spans, whole prompts and later parts of them, decode rows among
// them.
const std::vector<std::vector<part>> large_batches = {
    {{0, 1}, {0, 63}, {0, 65}},   {{0, 64}, {255, 2}, {200, 57}, {17, 1}}, {{0, 257}, {256, 1}},
    {{191, 130}, {0, 128}},       {{500, 40}, {511, 1}, {512, 1}},         {{1000, 70}, {767, 2}},
    {{1023, 1}, {0, 20}, {5, 3}},
};

void compare_tiles(const attention_shape& shape, const std::vector<part>& parts, int passes) {
  CAPTURE(shape.heads);
  CAPTURE(shape.head_dim);
  CAPTURE(parts[0].before);
  for (int pass = 0; pass < passes; ++pass) {
    test::begin_pass(pass);
    paged_case one(shape, parts, gpu::kv_form::f16);
    const auto small = one.run_columns(gpu::query_columns);
    CHECK(one.error_of(small) < 1e-3);
    for (const int columns : {64, 128}) {
      CAPTURE(columns);
      const bool emulated = test::device_passes() > 1;
      CHECK((one.has_columns(columns) || !emulated));  // else the device has no room
      if (one.has_columns(columns)) CHECK(one.run_columns(columns) == small);
    }
  }
}

TEST_CASE("attention: large tiles have the bits of small ones") {
  for (const auto& parts : large_batches) {
    compare_tiles(large_shapes[0], parts, test::device_passes());
  }
}

TEST_CASE("attention: large tiles of other heads have the bits of small ones") {
  int number = 0;
  for (const attention_shape& shape : large_shapes) {
    if (&shape == &large_shapes[0]) continue;
    for (const auto& parts : large_batches) {
      // The emulator takes every second.
      if (test::device_passes() > 1 && number++ % 2 == 1) continue;
      compare_tiles(shape, parts, 1);
    }
  }
}

TEST_CASE("attention: what large tiles cannot do is refused") {
  gpu::attention_arguments given;
  given.heads = 4;
  given.kv_heads = 2;
  given.head_dim = 64;
  given.positions_max = 512;
  const gpu::launch_context on;
  CHECK(gpu::has_large_tiles(on, given, 64));
  const auto differs = [&](auto&& change) {
    gpu::attention_arguments other = given;
    change(other);
    return !gpu::has_large_tiles(on, other, 64);
  };
  CHECK(differs([](auto& one) { one.head_dim = 96; }));
  CHECK(differs([](auto& one) { one.form = gpu::kv_form::int8; }));
  CHECK(differs([](auto& one) { one.softcap = 50; }));
  CHECK(differs([](auto& one) { one.window = 511; }));
  CHECK(!differs([](auto& one) { one.window = 512; }));
  CHECK(differs([](auto& one) { one.heads = 256; }));
  gpu::launch_context small = on;
  small.shared_bytes_max = 99 << 10;
  CHECK(!gpu::has_large_tiles(small, given, 64));
}

TEST_CASE("attention: long prompts take large tiles, decode rows and short prompts do not") {
  gpu::attention_arguments given;
  given.heads = 9;
  given.kv_heads = 3;
  given.head_dim = 64;
  const gpu::launch_context on;
  const auto columns = [&](const std::vector<gpu::row_run>& runs) {
    return gpu::choose_columns(on, given, runs);
  };
  CHECK(columns({{0, 512}}) == 64);
  CHECK(columns({{0, 2048}}) == 64);
  CHECK(columns({{1536, 512}}) == 64);
  CHECK(columns({{0, 128}}) == gpu::query_columns);
  CHECK(columns(std::vector<gpu::row_run>(256, {511, 1})) == gpu::query_columns);
  std::vector<gpu::row_run> mixed(32, {511, 1});
  mixed.push_back({0, 512});
  CHECK(columns(mixed) == 64);
  // A long sequence is spread over blocks by small tiles, and is one block's of large ones.
  CHECK(columns({{8184, 8}}) == gpu::query_columns);
  CHECK(columns({{0, 512}, {100000, 1}}) == gpu::query_columns);
  CHECK(columns(std::vector<gpu::row_run>(4, {0, 512})) == 128);
  given.positions_max = 64;
  CHECK(columns(std::vector<gpu::row_run>(64, {0, 32})) == gpu::query_columns);
  given.positions_max = 0;
  given.heads = 32;
  given.kv_heads = 8;
  CHECK(columns({{0, 2048}}) == 128);
}

}  // namespace
}  // namespace foretoken
