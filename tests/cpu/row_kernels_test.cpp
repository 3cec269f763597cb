// SPDX-License-Identifier: Apache-2.0
// The row kernels against float64 formulas, on every path of this machine.
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include <doctest/doctest.h>

#include "base/half.hpp"
#include "cpu/row_kernels.hpp"

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

}  // namespace
}  // namespace foretoken::cpu
