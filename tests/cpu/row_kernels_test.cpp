// SPDX-License-Identifier: Apache-2.0
// The row kernels against float64 formulas, on every path of this machine.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include <doctest/doctest.h>

#include "base/half.hpp"
#include "cpu/row_kernels.hpp"
#include "tests/reference/worst.hpp"

namespace foretoken::cpu {
namespace {

std::vector<const row_kernels*> kernels_here() {
  std::vector<const row_kernels*> out;
  for (const isa path : {isa::portable, isa::avx2, isa::avx512}) {
    if (const row_kernels* found = find_row_kernels(path)) out.push_back(found);
  }
  return out;
}

std::vector<float> values(int count, float spread, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> out(static_cast<std::size_t>(count));
  for (float& value : out) value = normal(random);
  return out;
}

constexpr int lengths[] = {1, 15, 16, 17, 24, 576, 1001};

void check_close(float got, double expected, double scale) {
  CHECK(std::abs(static_cast<double>(got) - expected) <= 2e-6 * (std::abs(expected) + scale));
}

TEST_CASE("row_kernels: norms are the formulas for every length") {
  for (const row_kernels* kernels : kernels_here()) {
    for (const int n : lengths) {
      CAPTURE(kernels->name);
      CAPTURE(n);
      const auto x = values(n, 3, 1), w = values(n, 1, 2), b = values(n, 1, 3);
      double squares = 0, mean = 0, variance = 0;
      for (const float value : x) squares += static_cast<double>(value) * value / n;
      for (const float value : x) mean += static_cast<double>(value) / n;
      for (const float value : x) variance += (value - mean) * (value - mean) / n;
      std::vector<float> rms(x.size() + 1, 7.0f), layer(x.size() + 1, 7.0f);
      kernels->rms_norm(x.data(), w.data(), n, 1e-3f, rms.data());
      kernels->layer_norm(x.data(), w.data(), b.data(), n, 1e-3f, layer.data());
      const double epsilon = static_cast<double>(1e-3f);
      for (std::size_t i = 0; i < x.size(); ++i) {
        check_close(rms[i], x[i] / std::sqrt(squares + epsilon) * w[i], 1e-3);
        check_close(layer[i], (x[i] - mean) / std::sqrt(variance + epsilon) * w[i] + b[i], 3);
      }
      CHECK(rms.back() == 7.0f);  // nothing is written behind the end
      CHECK(layer.back() == 7.0f);
    }
  }
}

TEST_CASE("row_kernels: gates and caps are the formulas, far outside too") {
  for (const row_kernels* kernels : kernels_here()) {
    for (const int n : lengths) {
      CAPTURE(kernels->name);
      CAPTURE(n);
      auto gate = values(n, 6, 4);
      const auto up = values(n, 1, 5);
      gate[0] = n % 2 == 0 ? -300.0f : 300.0f;
      std::vector<float> silu(gate.size()), gelu(gate.size());
      kernels->silu_gate(gate.data(), up.data(), n, silu.data());
      kernels->gelu_gate(gate.data(), up.data(), n, gelu.data());
      auto capped = gate, plain = gate;
      kernels->softcap(capped.data(), n, 30);
      kernels->gelu(plain.data(), n);
      for (std::size_t i = 0; i < gate.size(); ++i) {
        const double x = gate[i];
        const double tanh = std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x));
        check_close(silu[i], x / (1 + std::exp(-x)) * up[i], 1);
        check_close(gelu[i], 0.5 * x * (1 + tanh) * up[i], std::abs(x) + 1);
        check_close(plain[i], 0.5 * x * (1 + tanh), std::abs(x) + 1);
        check_close(capped[i], 30 * std::tanh(x / 30), 30);
      }
    }
  }
}

TEST_CASE("row_kernels: gates of a tile are the gates of its rows, and no row behind is touched") {
  for (const row_kernels* kernels : kernels_here()) {
    CAPTURE(kernels->name);
    for (const int rows : {0, 1, 3}) {
      const auto before = values(64 * (rows + 1), 4, 7);
      auto silu = before, gelu = before;
      kernels->silu_gate_tile(silu.data(), rows);
      kernels->gelu_gate_tile(gelu.data(), rows);
      for (int r = 0; r < rows; ++r) {
        for (int half = 0; half < 2; ++half) {
          const float* from = before.data() + 64 * r + 32 * half;
          float expected[16], other[16];
          kernels->silu_gate(from, from + 16, 16, expected);
          kernels->gelu_gate(from, from + 16, 16, other);
          for (int i = 0; i < 16; ++i) {
            CHECK(silu[static_cast<std::size_t>(64 * r + 16 * half + i)] == expected[i]);
            CHECK(gelu[static_cast<std::size_t>(64 * r + 16 * half + i)] == other[i]);
          }
        }
      }
      CHECK(std::equal(before.end() - 64, before.end(), silu.end() - 64));
      CHECK(std::equal(before.end() - 64, before.end(), gelu.end() - 64));
    }
  }
}

TEST_CASE("row_kernels: the largest of a tile lies where its errors say") {
  for (const row_kernels* kernels : kernels_here()) {
    const auto errors = values(64, 1, 5);
    for (const int count : {1, 16, 23, 64}) {
      CAPTURE(kernels->name);
      auto y = values(64, 3, static_cast<unsigned>(count));
      for (int i = count; i < 64; ++i) y[static_cast<std::size_t>(i)] = NAN;  // never looked at
      value_range expected{-INFINITY, -INFINITY};
      for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
        expected.low = std::max(expected.low, y[i] - errors[i] * 0.5f);
        expected.high = std::max(expected.high, y[i] + errors[i] * 0.5f);
      }
      const value_range got = kernels->largest_of(y.data(), errors.data(), 0.5f, count);
      CHECK(got.low == doctest::Approx(expected.low));
      CHECK(got.high == doctest::Approx(expected.high));
      CHECK(kernels->largest_of(y.data(), y.data(), 0, count).high ==
            *std::max_element(y.begin(), y.begin() + count));
      for (const float bad : {INFINITY, -INFINITY, NAN}) {
        y[static_cast<std::size_t>(count) / 2] = bad;
        CHECK(std::isnan(kernels->largest_of(y.data(), errors.data(), 0.5f, count).low));
        CHECK(std::isnan(kernels->largest_of(y.data(), errors.data(), 0.5f, count).high));
      }
    }
  }
}

TEST_CASE("row_kernels: the spread of a tile is the root of scales squared times energies") {
  constexpr std::size_t blocks = 5, stride = 300;
  const auto scales = values(64 * blocks, 1, 7);
  const float energies[blocks] = {0, 1, 0.25f, 30, 2};
  std::vector<std::byte> stored(blocks * stride);
  for (std::size_t i = 0; i < scales.size(); ++i) {
    const std::uint16_t half = float_to_f16(scales[i]);
    std::memcpy(stored.data() + i / 64 * stride + i % 64 * 2, &half, sizeof half);
  }
  for (const row_kernels* kernels : kernels_here()) {
    float got[64];
    kernels->scale_spread(stored.data(), stride, energies, blocks, got);
    for (std::size_t n = 0; n < 64; ++n) {
      double sum = 0;
      for (std::size_t b = 0; b < blocks; ++b) {
        const double scale = static_cast<double>(f16_to_float(float_to_f16(scales[b * 64 + n])));
        sum += scale * scale * static_cast<double>(energies[b]);
      }
      check_close(got[n], std::sqrt(sum), 1);
    }
  }
}

TEST_CASE("row_kernels: a NaN stays a NaN") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const row_kernels* kernels : kernels_here()) {
    CAPTURE(kernels->name);
    float x[3] = {1, nan, 2};
    const float one[3] = {1, 1, 1};
    float out[3] = {};
    kernels->silu_gate(x, one, 3, out);
    CHECK(std::isnan(out[1]));
    CHECK(std::isfinite(out[2]));
    kernels->gelu_gate(x, one, 3, out);
    CHECK(std::isnan(out[1]));
    kernels->softcap(x, 3, 30);
    CHECK(std::isnan(x[1]));
  }
}

TEST_CASE("row_kernels: f16 is rounded to nearest even, clamped and counted") {
  for (const row_kernels* kernels : kernels_here()) {
    CAPTURE(kernels->name);
    auto x = values(37, 100, 6);
    x[3] = 70000.0f;
    x[20] = -1e30f;
    x[36] = std::numeric_limits<float>::infinity();
    x[5] = 65504.0f;
    std::vector<std::uint16_t> half(38, 0x1234);
    CHECK(kernels->to_half(x.data(), 37, half.data()) == 3);
    CHECK(half[3] == 0x7BFF);
    CHECK(half[20] == 0xFBFF);
    CHECK(half[36] == 0x7BFF);
    CHECK(half[37] == 0x1234);
    for (const std::size_t i : {0u, 5u, 17u, 35u}) CHECK(half[i] == float_to_f16(x[i]));
  }
}

TEST_CASE("row_kernels: bf16 is rounded to nearest even, clamped and counted") {
  for (const row_kernels* kernels : kernels_here()) {
    CAPTURE(kernels->name);
    auto x = values(37, 100, 6);
    x[3] = 1e30f;
    x[5] = std::numeric_limits<float>::infinity();
    x[20] = -std::numeric_limits<float>::infinity();
    x[30] = std::bit_cast<float>(0x7FFFFFFFu);  // a NaN whose rounding would leave the exponent
    x[36] = 1.00390625f;                        // halfway between two: to the even one
    std::vector<std::uint16_t> bf16(38, 0x1234);
    CHECK(kernels->to_bf16(x.data(), 37, bf16.data()) == 2);
    CHECK(bf16[5] == 0x7F7F);
    CHECK(bf16[20] == 0xFF7F);
    CHECK(std::isnan(bf16_to_float(bf16[30])));
    CHECK(bf16[36] == 0x3F80);
    CHECK(bf16[37] == 0x1234);
    for (const std::size_t i : {0u, 3u, 17u, 35u}) CHECK(bf16[i] == float_to_bf16(x[i]));
  }
}

TEST_CASE("row_kernels: int8 is within half a scale, and says what was not finite") {
  for (const row_kernels* kernels : kernels_here()) {
    for (const int n : lengths) {
      CAPTURE(kernels->name);
      CAPTURE(n);
      auto x = values(n, 5, 8);
      const float most = std::abs(
          *std::ranges::max_element(x, [](float a, float b) { return std::abs(a) < std::abs(b); }));
      std::vector<std::int8_t> quants(x.size() + 1, 99);
      const float scale = kernels->to_int8(x.data(), n, quants.data());
      CHECK(scale == most / 127.0f);
      CHECK(quants.back() == 99);
      int largest = 0;
      for (std::size_t i = 0; i < x.size(); ++i) {
        CHECK(std::abs(scale * static_cast<float>(quants[i]) - x[i]) <= 0.50001f * scale);
        largest = std::max(largest, std::abs(int{quants[i]}));
      }
      CHECK(largest == 127);
      for (const float bad :
           {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
        auto spoiled = x;
        spoiled[spoiled.size() / 2] = bad;
        CHECK(std::isnan(kernels->to_int8(spoiled.data(), n, quants.data())));
      }
      std::ranges::fill(x, 1e-38f);
      kernels->to_int8(x.data(), n, quants.data());
      CHECK(quants[0] == 0);
    }
  }
}

// Keys and values of `pages` pages in bf16; what no query may read is a NaN.
struct bf16_pages {
  int dim;
  std::vector<std::uint16_t> bytes;
  std::vector<page_id> ids;
  std::vector<std::vector<double>> keys, values;  // [position][dim]

  bf16_pages(int head_dim, int pages, int first, int end) : dim(head_dim) {
    const auto page = static_cast<std::size_t>(kv_head_bytes(kv_type::bf16, dim)) / 2;
    bytes.assign(page * static_cast<std::size_t>(pages), std::uint16_t{0});
    const auto all = values_of(pages);
    for (int p = 0; p < pages; ++p) ids.push_back(page_id{pages - 1 - p});
    for (int at = 0; at < pages * page_tokens; ++at) {
      std::uint16_t* const keys_at =
          bytes.data() + page * static_cast<std::size_t>(pages - 1 - at / page_tokens);
      std::uint16_t* const values_at = keys_at + kv_key_bytes(kv_type::bf16, dim) / 2;
      keys.emplace_back();
      values.emplace_back();
      for (int d = 0; d < dim; ++d) {
        const bool read = at >= first && at < end;
        const std::size_t from = 2 * static_cast<std::size_t>(at * dim + d);
        const std::uint16_t k = read ? float_to_bf16(all[from]) : std::uint16_t{0x7FC0};
        const std::uint16_t v = read ? float_to_bf16(all[from + 1]) : std::uint16_t{0x7FC0};
        keys_at[kv_key_index(kv_type::bf16, d, at % page_tokens)] = k;
        values_at[kv_value_index(kv_type::bf16, padded_dim(dim), d, at % page_tokens)] = v;
        keys.back().push_back(bf16_to_float(k));
        values.back().push_back(bf16_to_float(v));
      }
    }
  }
  std::vector<float> values_of(int pages) const {
    return cpu::values(2 * pages * page_tokens * dim, 1, 31);
  }
};

std::vector<double> attended(
    const bf16_pages& from, const float* q, int position, int window, double scale) {
  const int first = window > 0 ? std::max(0, position - window + 1) : 0;
  std::vector<double> weights, out(static_cast<std::size_t>(from.dim));
  double most = -1e300, sum = 0;
  for (int at = first; at <= position; ++at) {
    double score = 0;
    for (int d = 0; d < from.dim; ++d) {
      score += static_cast<double>(bf16_to_float(float_to_bf16(q[d]))) *
               from.keys[static_cast<std::size_t>(at)][static_cast<std::size_t>(d)];
    }
    weights.push_back(score * scale);
    most = std::max(most, weights.back());
  }
  for (double& weight : weights) sum += weight = std::exp(weight - most);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    for (std::size_t d = 0; d < out.size(); ++d) {
      out[d] += weights[i] / sum * from.values[static_cast<std::size_t>(first) + i][d];
    }
  }
  return out;
}

TEST_CASE(
    "row_kernels: attention over pairs of bf16 is the formula, and reads its own positions only") {
  for (const row_kernels* kernels : kernels_here()) {
    for (const int dim : {16, 24, 33, 64, 80, 128}) {
      for (const int position : {0, 1, 15, 16, 126, 127, 128, 200}) {
        for (const int window : {0, 7, 40}) {
          for (int count = 1; count <= attention_tile; ++count) {
            // the window of the first query, up to the last one's position
            const int first = window > 0 ? std::max(0, position - window + 1) : 0;
            const bf16_pages pages(dim, (position + count) / page_tokens + 2, first,
                                   position + count);
            const auto q = values(count * dim, 1, 32);
            std::vector<float> out(static_cast<std::size_t>(count * dim), 7.0f),
                alone(static_cast<std::size_t>(dim));
            attention_job job;
            job.pages = pages.ids.data();
            job.base = reinterpret_cast<const std::byte*>(pages.bytes.data());
            job.page_stride = static_cast<std::size_t>(kv_head_bytes(kv_type::bf16, dim));
            job.head_dim = dim;
            job.window = window;
            job.scale = 0.2f;
            job.type = kv_type::bf16;
            job.bf16_products = true;
            attention_job one = job;
            for (int i = 0; i < count; ++i) {
              job.queries[job.query_count++] = {q.data() + i * dim, out.data() + i * dim,
                                                position + i};
            }
            kernels->attend(job);
            CAPTURE(kernels->name);
            CAPTURE(dim);
            CAPTURE(position);
            CAPTURE(window);
            CAPTURE(count);
            double worst = 0;
            for (int i = 0; i < count; ++i) {
              const auto expected = attended(pages, q.data() + i * dim, position + i, window, 0.2);
              one.queries[0] = {q.data() + i * dim, alone.data(), position + i};
              one.query_count = 1;
              kernels->attend(one);
              for (int d = 0; d < dim; ++d) {
                const float got = out[static_cast<std::size_t>(i * dim + d)];
                worst = reference::worse(worst, std::abs(static_cast<double>(got) -
                                                         expected[static_cast<std::size_t>(d)]));
                REQUIRE(got == alone[static_cast<std::size_t>(d)]);
              }
            }
            CHECK(worst < 0.02);  // a weight in bf16 is off by up to 1 in 256
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace foretoken::cpu
