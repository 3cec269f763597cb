// SPDX-License-Identifier: Apache-2.0
// The 4-bit draft of a matrix, and the columns that are multiplied exactly beside it.
#include <cmath>
#include <cstring>

#include "base/half.hpp"
#include "cpu/dispatch.hpp"
#include "cpu/linear.hpp"
#include "doctest/doctest.h"
#include "tests/reference/linear_reference.hpp"
#include "tests/reference/worst.hpp"

namespace foretoken::cpu {
namespace {

using model::dtype;
using reference::random_tensor;

std::vector<isa> paths_here() {
  std::vector<isa> paths{isa::portable};
  if (features().avx2) paths.push_back(isa::avx2);
  if (features().avx512) paths.push_back(isa::avx512);
  return paths;
}

// Weight (n, k), by a row of inputs that is 1 there.
double weight_at(const model::tensor& w, int n, int k) {
  std::vector<float> x(static_cast<std::size_t>(w.columns));
  x[static_cast<std::size_t>(k)] = 1;
  return reference::dot(w, n, x.data()).value;
}

// What the kernels multiply each column by: [columns][whole tiles of rows].
std::vector<float> columns_of(const linear& w, const options& chosen) {
  const int columns = w.columns();
  const auto stride = static_cast<std::size_t>(w.tiles() * tile_rows);
  activations units(columns, columns, chosen, w.reads());
  for (int k = 0; k < columns; ++k) {
    std::vector<float> x(static_cast<std::size_t>(columns));
    x[static_cast<std::size_t>(k)] = 1;
    units.set(k, x.data(), columns);
  }
  std::vector<float> y(static_cast<std::size_t>(columns) * stride);
  for (int tile = 0; tile < w.tiles(); ++tile) {
    w.apply(tile, units, 0, columns, y.data() + tile * tile_rows, stride);
  }
  return y;
}

TEST_CASE("draft: its weights are off by at most half their scale") {
  std::mt19937 random(9);
  thread_pool threads(2);
  constexpr int rows = 70, columns = 256;
  for (const isa path : paths_here()) {
    for (const dtype type : {dtype::f32, dtype::bf16, dtype::q5_1, dtype::q8_0, dtype::q6_k}) {
      options chosen;
      chosen.path = path;
      const random_tensor w(type, rows, columns, random);
      REQUIRE(can_draft(w.view, chosen));
      auto packed = linear::pack_draft(w.view, chosen, threads);
      REQUIRE(packed);
      const linear& draft = **packed;
      CHECK(draft.bytes() == draft_bytes(w.view));
      const auto y = columns_of(draft, chosen);
      double worst = 0;
      for (int n = 0; n < rows; ++n) {
        const auto scales = draft.scales(n / tile_rows);
        for (int k = 0; k < columns; ++k) {
          std::uint16_t half;
          const auto block = static_cast<std::size_t>(k / 32);
          std::memcpy(&half, scales.first + block * scales.stride + n % tile_rows * 2, 2);
          const double scale = std::fabs(static_cast<double>(f16_to_float(half)));
          const double got = y[static_cast<std::size_t>(k * draft.tiles() * tile_rows + n)];
          worst = reference::worse(worst, std::fabs(got - weight_at(w.view, n, k)) / scale);
        }
      }
      CHECK(worst < 0.5001);
    }
  }
}

TEST_CASE("draft: it is of whole blocks, of more than 4 bits, and not of float32 numerics") {
  std::mt19937 random(10);
  options chosen;
  CHECK(can_draft(random_tensor(dtype::f16, 3, 64, random).view, chosen));
  CHECK_FALSE(can_draft(random_tensor(dtype::f16, 3, 65, random).view, chosen));
  CHECK_FALSE(can_draft(random_tensor(dtype::q4_0, 3, 64, random).view, chosen));
  chosen.precision = numerics::float32;
  CHECK_FALSE(can_draft(random_tensor(dtype::f16, 3, 64, random).view, chosen));
}

TEST_CASE("linear: one column of a tile has the matrix's weights, whatever its type") {
  std::mt19937 random(11);
  thread_pool threads(1);
  constexpr int rows = 70, columns = 256;
  for (const isa path : paths_here()) {
    const row_kernels& kernels = *find_row_kernels(path);
    options chosen;
    chosen.path = path;
    for (const dtype type : {dtype::f32, dtype::f16, dtype::bf16, dtype::q5_0, dtype::q5_1,
                             dtype::q8_0, dtype::q5_k, dtype::q6_k}) {
      const random_tensor w(type, rows, columns, random);
      CAPTURE(model::dtype_name(type));
      auto packed = linear::pack({&w.view, 1}, false, chosen, threads);
      REQUIRE(packed);
      for (const int k : {0, 5, 31, 47, 255}) {
        std::vector<float> y(tile_rows, 0.5f);
        std::vector<float> weights(tile_rows);
        kernels.read_column((*packed)->column(1, k), weights.data());
        kernels.add_column(weights.data(), 2, y.data());
        for (int n = tile_rows; n < rows; ++n) {
          const double expected = 2 * weight_at(w.view, n, k) + 0.5;
          CHECK(std::fabs(static_cast<double>(y[static_cast<std::size_t>(n - tile_rows)]) -
                          expected) < 1e-5 * (1 + std::fabs(expected)));
        }
      }
    }
  }
}

}  // namespace
}  // namespace foretoken::cpu
