// SPDX-License-Identifier: Apache-2.0
#include "cpu/linear.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>
#include <span>
#include <string>

#include "base/half.hpp"
#include "cpu/dispatch.hpp"
#include "cpu/float_weights.hpp"
#include "cpu/linear_decode.hpp"
#include "doctest/doctest.h"
#include "tests/reference/linear_reference.hpp"
#include "tests/reference/worst.hpp"

namespace foretoken::cpu {
namespace {

using model::dtype;
using reference::random_tensor;

struct named_type {
  dtype type;
  const char* name;
};
constexpr named_type all_types[] = {
    {dtype::f32, "f32"},   {dtype::f16, "f16"},   {dtype::bf16, "bf16"}, {dtype::q4_0, "q4_0"},
    {dtype::q4_1, "q4_1"}, {dtype::q5_0, "q5_0"}, {dtype::q5_1, "q5_1"}, {dtype::q8_0, "q8_0"},
    {dtype::q2_k, "q2_k"}, {dtype::q3_k, "q3_k"}, {dtype::q4_k, "q4_k"}, {dtype::q5_k, "q5_k"},
    {dtype::q6_k, "q6_k"}};

std::vector<isa> paths_here() {
  std::vector<isa> paths{isa::portable};
  if (features().avx2) paths.push_back(isa::avx2);
  if (features().avx512) paths.push_back(isa::avx512);
  return paths;
}

std::vector<float> random_rows(int rows, int columns, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<std::size_t>(rows * columns));
  for (float& value : x) value = normal(random);
  return x;
}

activations fill(const std::vector<float>& x,
                 int rows,
                 int columns,
                 const options& chosen,
                 input_parts keep = {true, true}) {
  activations a(rows, columns, chosen, keep);
  for (int m = 0; m < rows; ++m)
    a.set(m, x.data() + static_cast<std::size_t>(m * columns), columns);
  return a;
}

std::unique_ptr<const linear> pack(std::span<const model::tensor> parts,
                                   const options& chosen,
                                   thread_pool& threads,
                                   bool interleave16 = false) {
  auto packed = linear::pack(parts, interleave16, chosen, threads);
  REQUIRE_MESSAGE(packed.has_value(), (packed ? "" : to_string(packed.error())));
  return std::move(packed).value();
}

// All outputs of all rows, tile after tile: y[m][n].
std::vector<float> multiply(const linear& w,
                            const activations& x,
                            int rows,
                            thread_pool& threads,
                            int rows_at_once = 1 << 20) {
  const auto stride = static_cast<std::size_t>(w.tiles() * tile_rows);
  std::vector<float> y(static_cast<std::size_t>(rows) * stride,
                       std::numeric_limits<float>::quiet_NaN());
  threads.run(w.tiles(), [&](int tile, int) {
    for (int m = 0; m < rows; m += rows_at_once) {
      w.apply(tile, x, m, std::min(rows, m + rows_at_once), y.data() + tile * tile_rows, stride);
    }
  });
  return y;
}

// The largest error relative to sum |w x|; `row_of` maps an output to a part and its row.
double worst_error(const std::vector<float>& y,
                   std::size_t stride,
                   const model::tensor& w,
                   const std::vector<float>& x,
                   int rows) {
  double worst = 0;
  for (int m = 0; m < rows; ++m) {
    for (std::int64_t n = 0; n < w.rows; ++n) {
      const auto expected = reference::dot(w, n, x.data() + m * w.columns);
      const double got = y[static_cast<std::size_t>(m) * stride + static_cast<std::size_t>(n)];
      const double error = std::fabs(got - expected.value) / (expected.magnitude + 1e-30);
      worst = reference::worse(worst, error);
    }
  }
  return worst;
}

// Half a step of 1 / 32512 of a group's largest value, or of 1 / 127; against the sum of all |w x|.
double tolerance_of(numerics precision) {
  if (precision == numerics::float32) return 1e-6;
  return precision == numerics::exact ? 4e-5 : 1e-2;
}
constexpr double exact_tolerance = 4e-5;

void check_shape(const named_type& type, isa path, int rows, int columns, numerics precision) {
  std::mt19937 random(static_cast<unsigned>(rows * 7919 + columns));
  thread_pool threads(2);
  options chosen;
  chosen.path = path;
  chosen.precision = precision;
  const random_tensor w(type.type, rows, columns, random);
  const auto packed = pack({&w.view, 1}, chosen, threads);
  CHECK(packed->rows() == rows);
  CHECK(packed->columns() == columns);
  CHECK(packed->bytes() == packed_bytes({&w.view, 1}, chosen));
  constexpr int tokens = 5;
  const auto x = random_rows(tokens, columns, random);
  const auto y = multiply(*packed, fill(x, tokens, columns, chosen), tokens, threads);
  const auto stride = static_cast<std::size_t>(packed->tiles() * tile_rows);
  CAPTURE(type.name);
  CAPTURE(isa_name(path));
  CAPTURE(rows);
  CAPTURE(columns);
  const bool floats = precision == numerics::float32 || reference::format_of(type.type).values == 1;
  CHECK(worst_error(y, stride, w.view, x, tokens) <
        tolerance_of(floats ? numerics::float32 : precision));
}

TEST_CASE("linear: every type, shape and path agrees with float64") {
  for (const named_type& type : all_types) {
    for (const isa path : paths_here()) {
      for (const int columns : {1, 32, 56, 96, 256, 576, 1536}) {
        if (columns % reference::format_of(type.type).values != 0) continue;
        for (const int rows : {1, 17, 64, 65}) {
          check_shape(type, path, rows, columns, numerics::exact);
          check_shape(type, path, rows, columns, numerics::fast);
        }
      }
      check_shape(type, path, 960, 256, numerics::exact);
      check_shape(type, path, 960, 256, numerics::fast);
    }
  }
}

// A weight's error is half a step of 1 / 127 of its group's largest at most.
constexpr double w8_tolerance = 1e-2;

void check_w8(const named_type& type, isa path, int rows, int columns, numerics precision) {
  std::mt19937 random(static_cast<unsigned>(rows * 7919 + columns));
  thread_pool threads(2);
  options chosen;
  chosen.path = path;
  chosen.precision = precision;
  chosen.floats = float_weights::w8;
  const random_tensor w(type.type, rows, columns, random);
  const auto packed = pack({&w.view, 1}, chosen, threads);
  CHECK_FALSE(packed->reads().floats);
  CHECK(packed->bytes() == packed_bytes({&w.view, 1}, chosen));
  constexpr int tokens = 9;
  const auto x = random_rows(tokens, columns, random);
  const activations inputs = fill(x, tokens, columns, chosen);
  const auto y = multiply(*packed, inputs, tokens, threads);
  CAPTURE(type.name);
  CAPTURE(isa_name(path));
  CAPTURE(rows);
  CAPTURE(columns);
  const auto stride = static_cast<std::size_t>(packed->tiles() * tile_rows);
  CHECK(worst_error(y, stride, w.view, x, tokens) < w8_tolerance + tolerance_of(precision));
  const auto alone = multiply(*packed, inputs, tokens, threads, 1);
  for (int m = 0; m < tokens; ++m) {
    const auto at = static_cast<std::size_t>(m) * stride;
    CHECK(std::memcmp(&y[at], &alone[at], static_cast<std::size_t>(rows) * sizeof(float)) == 0);
  }
}

TEST_CASE("linear: floats packed as 8 bits are close, and a row's bits are its own") {
  for (const named_type& type : {all_types[0], all_types[1], all_types[2]}) {
    for (const isa path : paths_here()) {
      for (const int columns : {32, 96, 576}) {
        check_w8(type, path, 65, columns, numerics::exact);
        check_w8(type, path, 65, columns, numerics::fast);
      }
    }
  }
}

TEST_CASE("linear: only whole groups become 8 bits, and not in float32") {
  std::mt19937 random(5);
  options chosen;
  chosen.floats = float_weights::w8;
  const random_tensor odd(dtype::bf16, 64, 40, random);
  const random_tensor whole(dtype::bf16, 64, 64, random);
  CHECK(packed_bytes({&odd.view, 1}, chosen) == 64 * 40 * 2);
  CHECK(packed_bytes({&whole.view, 1}, chosen) == 64 * 64 / 32 * 34);
  chosen.precision = numerics::float32;
  CHECK(packed_bytes({&whole.view, 1}, chosen) == 64 * 64 * 2);
}

TEST_CASE("linear: float32 numerics keep the floats of quantised types") {
  for (const named_type& type : all_types) {
    for (const isa path : paths_here()) check_shape(type, path, 65, 256, numerics::float32);
  }
}

struct bits_shape {
  int rows, columns, tokens;
};

// Rows multiplied alone, and `at_once` together.
void check_bits(const named_type& type,
                isa path,
                numerics precision,
                const bits_shape& shape,
                std::span<const int> at_once,
                std::mt19937& random) {
  thread_pool one(1);
  thread_pool two(2);
  options chosen;
  chosen.path = path;
  chosen.precision = precision;
  const random_tensor w(type.type, shape.rows, shape.columns, random);
  const auto packed = pack({&w.view, 1}, chosen, two);
  const auto x = random_rows(shape.tokens, shape.columns, random);
  const activations a = fill(x, shape.tokens, shape.columns, chosen);
  const auto alone = multiply(*packed, a, shape.tokens, one, 1);
  CAPTURE(type.name);
  CAPTURE(isa_name(path));
  CAPTURE(static_cast<int>(precision));
  for (const int rows : at_once) {
    const auto together = multiply(*packed, a, shape.tokens, rows % 2 == 0 ? one : two, rows);
    CAPTURE(rows);
    CHECK(std::memcmp(alone.data(), together.data(), alone.size() * sizeof(float)) == 0);
  }
}

TEST_CASE("linear: the bits of a row do not depend on the rows beside it or on threads") {
  std::mt19937 random(11);
  std::vector<int> at_once(18);
  std::iota(at_once.begin(), at_once.end(), 2);
  for (const named_type& type : all_types) {
    for (const isa path : paths_here()) {
      check_bits(type, path, numerics::exact, {200, 768, 19}, at_once, random);
      check_bits(type, path, numerics::fast, {200, 768, 19}, at_once, random);
    }
  }
}

// More columns than one turn of the kernels for many rows takes.
TEST_CASE("linear: nor on them when there are many columns") {
  std::mt19937 random(16);
  constexpr int at_once[] = {12, 25, 33};
  for (const named_type& type : all_types) {
    for (const isa path : paths_here()) {
      check_bits(type, path, numerics::exact, {64, 3328, 33}, at_once, random);
      check_bits(type, path, numerics::fast, {64, 3328, 33}, at_once, random);
    }
  }
}

TEST_CASE("linear: parts of a row set apart are the row set whole") {
  std::mt19937 random(14);
  thread_pool threads(1);
  for (const isa path : paths_here()) {
    for (const numerics precision : {numerics::exact, numerics::fast, numerics::float32}) {
      options chosen;
      chosen.path = path;
      chosen.precision = precision;
      const random_tensor w(dtype::q4_0, 64, 160, random);
      const auto packed = pack({&w.view, 1}, chosen, threads);
      const auto x = random_rows(2, 160, random);
      const activations whole = fill(x, 2, 160, chosen);
      activations parts(2, 160, chosen, {false, true});
      for (const int first : {96, 0, 32}) {
        for (int m = 0; m < 2; ++m)
          parts.set_part(m, first, x.data() + m * 160 + first, first == 0 ? 32 : 64);
      }
      CHECK(multiply(*packed, whole, 2, threads) == multiply(*packed, parts, 2, threads));
    }
  }
}

TEST_CASE("linear: a block of many rows set at once is each row's set alone") {
  constexpr int rows = 37;  // not whole batches of 16
  std::mt19937 random(15);
  thread_pool threads(1);
  for (const isa path : paths_here()) {
    for (const numerics precision : {numerics::exact, numerics::fast, numerics::float32}) {
      options chosen;
      chosen.path = path;
      chosen.precision = precision;
      const random_tensor w(dtype::q4_0, 64, 64, random);
      const auto packed = pack({&w.view, 1}, chosen, threads);
      auto x = random_rows(rows, 64, random);
      std::fill_n(x.begin() + 5 * 64, 32, 0.0f);
      const activations whole = fill(x, rows, 64, chosen);
      activations blocks(rows, 64, chosen, {false, true});
      blocks.set_block(0, rows, 32, x.data() + 32, 64);
      blocks.set_block(0, 3, 0, x.data(), 64);
      blocks.set_block(3, rows - 3, 0, x.data() + 3 * 64, 64);
      CHECK(multiply(*packed, whole, rows, threads) == multiply(*packed, blocks, rows, threads));
    }
  }
}

TEST_CASE("linear: inputs that keep what their matrix reads give the bits of those that keep all") {
  std::mt19937 random(16);
  thread_pool threads(1);
  constexpr int rows = 33, columns = 256;
  for (const named_type& type : all_types) {
    CAPTURE(type.name);
    for (const isa path : paths_here()) {
      for (const numerics precision : {numerics::exact, numerics::fast}) {
        options chosen;
        chosen.path = path;
        chosen.precision = precision;
        const random_tensor w(type.type, 64, columns, random);
        const auto packed = pack({&w.view, 1}, chosen, threads);
        const auto x = random_rows(rows, columns, random);
        const activations own = fill(x, rows, columns, chosen, packed->reads());
        const activations all = fill(x, rows, columns, chosen);
        CHECK(multiply(*packed, own, rows, threads) == multiply(*packed, all, rows, threads));
      }
    }
  }
}

TEST_CASE("linear: the largest quants and activations do not overflow") {
  std::mt19937 random(5);
  thread_pool threads(1);
  for (const named_type& type : all_types) {
    for (const isa path : paths_here()) {
      for (const float sign : {1.0f, -1.0f, 0.0f, 2.0f}) {
        constexpr float value = 127;  // its scale is a power of two, its quant the largest
        options chosen;
        chosen.path = path;
        chosen.precision = sign == 2.0f ? numerics::fast : numerics::exact;
        const random_tensor w(type.type, 64, 512, random, 255);
        const auto packed = pack({&w.view, 1}, chosen, threads);
        std::vector<float> x(2 * 512, value * sign);
        for (std::size_t i = 0; sign == 0 && i < x.size(); ++i) x[i] = i % 2 == 0 ? value : -value;
        const auto y = multiply(*packed, fill(x, 2, 512, chosen), 2, threads);
        CAPTURE(type.name);
        CAPTURE(isa_name(path));
        CHECK(worst_error(y, 64, w.view, x, 2) <
              exact_tolerance);  // one value: its own quant is exact
      }
    }
  }
}

TEST_CASE("linear: a channel a thousand times larger does not drown the others") {
  std::mt19937 random(6);
  thread_pool threads(1);
  for (const isa path : paths_here()) {
    options chosen;
    chosen.path = path;
    random_tensor w(dtype::q4_1, 64, 576, random);
    // the first group of 32 columns, where the large channel is, weighs nothing
    for (std::size_t row = 0; row < 64; ++row) {
      std::memset(w.bytes.data() + row * 18 * 20, 0, 20);
    }
    const auto packed = pack({&w.view, 1}, chosen, threads);
    auto x = random_rows(1, 576, random);
    x[7] *= 1000;
    const auto y = multiply(*packed, fill(x, 1, 576, chosen), 1, threads);
    CHECK(worst_error(y, 64, w.view, x, 1) < exact_tolerance);
  }
}

TEST_CASE(
    "linear: a value that is not finite, or absurd, makes the row's outputs NaN and no other's") {
  std::mt19937 random(8);
  thread_pool threads(1);
  for (const isa path : paths_here()) {
    for (const float bad :
         {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN(), 1e35f}) {
      options chosen;
      chosen.path = path;
      const random_tensor w(bad == 1e35f ? dtype::q4_1 : dtype::q8_0, 64, 96, random);
      const auto packed = pack({&w.view, 1}, chosen, threads);
      auto x = random_rows(2, 96, random);
      x[96 + 40] = bad;
      const auto y = multiply(*packed, fill(x, 2, 96, chosen), 2, threads);
      for (std::size_t n = 0; n < 64; ++n) {
        CHECK(std::isfinite(y[n]));
        CHECK(std::isnan(y[64 + n]));
      }
    }
  }
}

TEST_CASE("linear: fused parts stand one below the other, whatever their types") {
  std::mt19937 random(9);
  thread_pool threads(2);
  struct fused_case {
    dtype types[3];
    int rows[3];
  };
  const fused_case cases[] = {{{dtype::q4_0, dtype::q4_0, dtype::q4_0}, {24, 8, 8}},
                              {{dtype::q4_0, dtype::q4_0, dtype::q6_k}, {128, 64, 64}},
                              {{dtype::q4_k, dtype::bf16, dtype::q6_k}, {24, 8, 9}},
                              {{dtype::f16, dtype::f32, dtype::f16}, {64, 64, 3}}};
  for (const fused_case& fused : cases) {
    for (const isa path : paths_here()) {
      options chosen;
      chosen.path = path;
      const random_tensor q(fused.types[0], fused.rows[0], 256, random);
      const random_tensor k(fused.types[1], fused.rows[1], 256, random);
      const random_tensor v(fused.types[2], fused.rows[2], 256, random);
      const model::tensor parts[] = {q.view, k.view, v.view};
      const auto packed = pack(parts, chosen, threads);
      const auto x = random_rows(3, 256, random);
      const auto y = multiply(*packed, fill(x, 3, 256, chosen), 3, threads);
      const auto stride = static_cast<std::size_t>(packed->tiles() * tile_rows);
      std::size_t first = 0;
      for (const model::tensor& part : parts) {
        const std::vector<float> below(y.begin() + static_cast<std::ptrdiff_t>(first), y.end());
        std::vector<float> padded(below);
        padded.resize(y.size());
        CHECK(worst_error(padded, stride, part, x, 3) < exact_tolerance);
        first += static_cast<std::size_t>(part.rows);
      }
      CHECK(packed->rows() == static_cast<int>(first));
    }
  }
}

TEST_CASE("linear: interleaved halves alternate every 16 rows, padded with zero rows") {
  std::mt19937 random(10);
  thread_pool threads(2);
  for (const int rows : {16, 40, 96}) {
    const random_tensor gate(dtype::q4_1, rows, 64, random);
    const random_tensor up(dtype::q4_1, rows, 64, random);
    const model::tensor parts[] = {gate.view, up.view};
    const auto packed = pack(parts, {}, threads, true);
    const auto x = random_rows(1, 64, random);
    const auto y = multiply(*packed, fill(x, 1, 64, {}), 1, threads);
    CHECK(packed->rows() == (rows + 15) / 16 * 32);
    for (int n = 0; n < packed->rows(); ++n) {
      const int row = n / 32 * 16 + n % 16;
      const model::tensor& part = parts[n / 16 % 2];
      const double expected = row < rows ? reference::dot(part, row, x.data()).value : 0.0;
      CHECK(y[static_cast<std::size_t>(n)] == doctest::Approx(expected).epsilon(1e-3).scale(1));
    }
  }
}

TEST_CASE("linear: transposed float tensors are read column by column") {
  std::mt19937 random(12);
  thread_pool threads(1);
  for (const dtype type : {dtype::f32, dtype::f16, dtype::bf16}) {
    random_tensor w(type, 70, 56, random);
    w.view.transposed = true;
    const auto packed = pack({&w.view, 1}, {}, threads);
    const auto x = random_rows(2, 56, random);
    const auto y = multiply(*packed, fill(x, 2, 56, {}), 2, threads);
    CHECK(worst_error(y, 128, w.view, x, 2) < 1e-6);
  }
}

TEST_CASE("linear: what cannot be packed is refused by name") {
  std::mt19937 random(13);
  thread_pool threads(1);
  const random_tensor a(dtype::q4_0, 64, 64, random);
  const random_tensor b(dtype::q4_0, 64, 96, random);
  const model::tensor unequal[] = {a.view, b.view};
  model::tensor short_of_bytes = a.view;
  short_of_bytes.bytes = short_of_bytes.bytes.first(100);
  model::tensor broken_block = a.view;
  broken_block.columns = 33;
  model::tensor empty = a.view;
  empty.rows = 0;
  CHECK(linear::pack(unequal, false, {}, threads).error().field == "w");
  CHECK(linear::pack({&short_of_bytes, 1}, false, {}, threads).error().code == errc::corrupt);
  CHECK(linear::pack({&broken_block, 1}, false, {}, threads).error().code ==
        errc::invalid_argument);
  CHECK(linear::pack({&empty, 1}, false, {}, threads).error().code == errc::invalid_argument);
  CHECK(linear::pack({&a.view, 1}, true, {}, threads).error().code == errc::invalid_argument);
  CHECK(linear::pack({}, false, {}, threads).error().code == errc::invalid_argument);
}

}  // namespace
}  // namespace foretoken::cpu
