// SPDX-License-Identifier: Apache-2.0
// Products with their prologues and epilogues: against float64, and a row's bits whatever stands
// beside it.
#include <iterator>
#include <span>

#include <doctest/doctest.h>

#include "tests/kernels/matrices.hpp"

namespace foretoken {
namespace {

using gpu::weight_form;
using test::at;
using test::device_array;
using test::made_matrix;
using test::made_workspace;
using test::random_source;
using test::read_device;
using test::relative_error;

// Rounding the inputs to f16 is 2^-12 a value, random in sign.
constexpr double allowed = 4e-4;

model::hyperparameters shape_of(int width, int ffn) {
  model::hyperparameters shape;
  shape.width = width;
  shape.ffn = ffn;
  shape.heads = 2;
  shape.kv_heads = 1;
  shape.head_dim = 64;
  return shape;
}

const char* form_name(weight_form form) {
  return form == weight_form::f16 ? "f16" : form == weight_form::w8 ? "w8" : "w4";
}

struct product_shape {
  int n, k;
  weight_form form;
};
// Odd, one k-step a segment, no whole 64s, wider than a block's tiles, long K.
constexpr product_shape product_shapes[] = {
    {16, 64, weight_form::f16},   {40, 72, weight_form::f16},   {576, 576, weight_form::f16},
    {100, 200, weight_form::f16}, {48, 1536, weight_form::f16}, {64, 96, weight_form::w8},
    {136, 576, weight_form::w8},  {48, 1536, weight_form::w4},  {136, 576, weight_form::w4},
};

TEST_CASE("linear: x += W h is the float64 product, and a row has its bits in any batch") {
  for (const product_shape& one : product_shapes) {
    CAPTURE(one.n);
    CAPTURE(one.k);
    CAPTURE(form_name(one.form));
    random_source random(3);
    const made_matrix w = test::random_matrix(random, one.form, one.n, one.k,
                                              gpu::plain_order(one.n), one.n % 3 == 1);
    constexpr int rows_max = 75;
    std::vector<float> h = random.normals(at(rows_max * one.k), 3);
    for (int i = 0; i < one.k; ++i) h[at(2 * one.k + i)] = 0;  // a row of zeros
    for (float& v : h) v = f16_to_float(float_to_f16(v));
    const std::vector<float> x = random.normals(at(rows_max * one.n));
    const auto gain = random.normals(at(one.n));
    const device_array<float> gain_there(gain);
    for (int pass = 0; pass < test::device_passes(); ++pass) {
      test::begin_pass(pass);
      std::vector<float> before, before_normed;
      bool small = false;  // the second 75: as on a device with little shared memory
      for (const int rows : {1, 7, 16, 29, 75, 75}) {
        gpu::launch_context on = test::device_context();
        if (small) on.shared_bytes_max = 99 << 10;
        small = rows == 75;
        if (rows == 75 && one.k == 1536 && pass > 0) continue;  // slow when emulated
        CAPTURE(rows);
        const made_workspace work(shape_of(one.n, one.k), rows, 16);
        test::device_write(work.view.x, x.data(), at(rows * one.n) * 4);
        test::put_halves(work.view.hidden, h, rows, one.k);
        gpu::residual_arguments given;
        given.rows = rows;
        given.work = work.view;
        given.matrix = w.view;
        given.width = one.n;
        given.next_norm.weight = gain_there.get();
        const status done = gpu::launch_ffn_output(on, given);
        REQUIRE_MESSAGE(done, (done ? "" : to_string(done.error())));
        const auto got = read_device(work.view.x, at(rows * one.n));
        std::vector<double> expected, expected_normed;
        for (int r = 0; r < rows; ++r) {
          const std::vector<double> input(h.begin() + r * one.k, h.begin() + (r + 1) * one.k);
          for (int n = 0; n < one.n; ++n) {
            expected.push_back(static_cast<double>(x[at(r * one.n + n)]) +
                               w.times(n, input.data()));
            expected_normed.push_back(expected.back() * static_cast<double>(gain[at(n)]));
          }
        }
        CHECK(relative_error(got, expected) < 1e-6);
        const auto normed = test::get_halves(work.view.normed, rows, one.n);
        CHECK(relative_error(normed, expected_normed) < allowed);
        const auto sums = test::tile_sums(got, rows, one.n);
        CHECK(relative_error(read_device(work.view.squares, sums.size()), sums) < 1e-6);
        CHECK(std::equal(before.begin(), before.end(), got.begin()));
        CHECK(std::equal(before_normed.begin(), before_normed.end(), normed.begin()));
        before = got;
        before_normed = normed;
      }
    }
  }
}

// x += W h by the kernel with that name.
std::vector<float> product_of(const product_shape& one,
                              const made_matrix& w,
                              const std::vector<float>& x,
                              const std::vector<float>& h,
                              gpu::product_tile tile) {
  const int rows = static_cast<int>(x.size()) / one.n;
  const made_workspace work(shape_of(one.n, one.k), rows, 16);
  test::device_write(work.view.x, x.data(), x.size() * 4);
  test::put_halves(work.view.hidden, h, rows, one.k);
  gpu::residual_arguments given;
  given.rows = rows;
  given.work = work.view;
  given.matrix = w.view;
  given.width = one.n;
  gpu::launch_context on = test::device_context();
  on.tile = tile;
  const status done = gpu::launch_ffn_output(on, given);
  REQUIRE_MESSAGE(done, (done ? "" : to_string(done.error())));
  return read_device(work.view.x, x.size());
}

// K of one, two, three, nine and sixteen k-steps a segment; rows and tiles that no block divides.
TEST_CASE("linear: every kernel gives the same bits") {
  constexpr product_shape shapes[] = {{40, 72, weight_form::f16},
                                      {144, 576, weight_form::f16},
                                      {80, 1024, weight_form::f16},
                                      {136, 192, weight_form::w8},
                                      {272, 64, weight_form::w4},
                                      // for the wide instruction's longer walks over codes
                                      {136, 576, weight_form::w4},
                                      {48, 1536, weight_form::w4},
                                      {136, 1024, weight_form::w8}};
  const bool wide = test::device_context().wide_mma;
  for (const product_shape& one : std::span(shapes).first(wide ? std::size(shapes) : 5)) {
    CAPTURE(one.n);
    CAPTURE(form_name(one.form));
    random_source random(5);
    const made_matrix w =
        test::random_matrix(random, one.form, one.n, one.k, gpu::plain_order(one.n), true);
    // On a device more blocks than it holds at once: registers and stages are reused under load.
    const int rows = wide ? 6000 : 75;
    std::vector<float> h = random.normals(at(rows * one.k), 3);
    for (float& v : h) v = f16_to_float(float_to_f16(v));
    const std::vector<float> x = random.normals(at(rows * one.n));
    for (int pass = 0; pass < test::device_passes(); ++pass) {
      test::begin_pass(pass);
      const auto expected = product_of(one, w, x, h, gpu::product_tile::chosen);
      using enum gpu::product_tile;
      for (const auto tile :
           {streamed_16x32_shallow, streamed_16x32, streamed_16x32_deep, streamed_32x64,
            streamed_64x64, tiled_64x64, tiled_128x64, split_64x32, split_64x64, quad_64x32,
            quad_64x64, quad_64x96, wide_128x64, wide_128x128}) {
        CAPTURE(static_cast<int>(tile));
        CHECK(product_of(one, w, x, h, tile) == expected);
      }
    }
  }
}

struct ffn_shape {
  int width, ffn;
  model::activation_kind activation;
  model::norm_kind norm;
  weight_form form;
};
using model::activation_kind;
using model::norm_kind;
constexpr ffn_shape ffn_shapes[] = {
    {64, 96, activation_kind::silu_gate, norm_kind::rms, weight_form::f16},
    {72, 20, activation_kind::silu_gate, norm_kind::rms, weight_form::f16},
    {576, 128, activation_kind::silu_gate, norm_kind::rms, weight_form::w4},
    {96, 40, activation_kind::gelu_tanh_gate, norm_kind::rms, weight_form::f16},
    {88, 72, activation_kind::gelu_tanh, norm_kind::layer, weight_form::f16},
};

std::vector<double> normed(const ffn_shape& one,
                           const float* x,
                           const std::vector<float>& gain,
                           const std::vector<float>& bias) {
  const auto n = static_cast<double>(one.width);
  double mean = 0, squares = 0;
  if (one.norm == norm_kind::layer) {
    for (int i = 0; i < one.width; ++i) mean += static_cast<double>(x[i]) / n;
  }
  for (int i = 0; i < one.width; ++i) {
    squares += (static_cast<double>(x[i]) - mean) * (static_cast<double>(x[i]) - mean) / n;
  }
  std::vector<double> out;
  for (int i = 0; i < one.width; ++i) {
    out.push_back((static_cast<double>(x[i]) - mean) / std::sqrt(squares + 1e-5) *
                      static_cast<double>(gain[at(i)]) +
                  (one.norm == norm_kind::layer ? static_cast<double>(bias[at(i)]) : 0.0));
  }
  return out;
}

double activated(activation_kind kind, double x) {
  if (kind == activation_kind::silu_gate) return x / (1 + std::exp(-x));
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

TEST_CASE("linear: norm, gate and up, activation") {
  for (const ffn_shape& one : ffn_shapes) {
    CAPTURE(one.width);
    CAPTURE(one.ffn);
    random_source random(4);
    const bool gated = one.activation != activation_kind::gelu_tanh;
    const int n = gated ? 2 * one.ffn : one.ffn;
    const made_matrix w =
        test::random_matrix(random, one.form, n, one.width,
                            gated ? gpu::gate_up_order(one.ffn) : gpu::plain_order(n), !gated);
    constexpr int rows_max = 40;
    const auto x = random.normals(at(rows_max * one.width), 3);
    const auto gain = random.normals(at(one.width));
    const auto bias = random.normals(at(one.width));
    const device_array<float> gain_there(gain), bias_there(bias);
    for (int pass = 0; pass < test::device_passes(); ++pass) {
      test::begin_pass(pass);
      std::vector<float> before;
      for (const int rows : {1, 7, 40}) {
        CAPTURE(rows);
        const made_workspace work(shape_of(one.width, one.ffn), rows, 16);
        test::put_stream(work.view, x, gain, rows, one.width);
        gpu::ffn_input_arguments given;
        given.rows = rows;
        given.work = work.view;
        given.norm = {gain_there.get(), one.norm == norm_kind::layer ? bias_there.get() : nullptr,
                      1e-5f, one.norm};
        given.matrix = w.view;
        given.ffn = one.ffn;
        given.activation = one.activation;
        const status done = gpu::launch_ffn_input(test::device_context(), given);
        REQUIRE_MESSAGE(done, (done ? "" : to_string(done.error())));
        const auto got = test::get_halves(work.view.hidden, rows, one.ffn);
        std::vector<double> expected;
        for (int r = 0; r < rows; ++r) {
          const auto input = normed(one, x.data() + r * one.width, gain, bias);
          for (int j = 0; j < one.ffn; ++j) {
            const double first = activated(one.activation, w.times(j, input.data()));
            expected.push_back(gated ? first * w.times(one.ffn + j, input.data()) : first);
          }
        }
        CHECK(relative_error(got, expected) < 2 * allowed);
        CHECK(std::equal(before.begin(), before.end(), got.begin()));
        before = got;
      }
    }
  }
}

TEST_CASE("packing: a quantised weight is its f16 value rounded once") {
  random_source random(9);
  for (int i = 0; i < 20000; ++i) {
    const auto scale = static_cast<std::uint16_t>(random.below(0x5000) | (random.below(2) << 15));
    const auto minimum = static_cast<std::uint16_t>(random.below(0x5000) | (random.below(2) << 15));
    const int code = static_cast<int>(random.below(256));
    const double exact = static_cast<double>(f16_to_float(scale)) * code +
                         static_cast<double>(f16_to_float(minimum));
    const std::uint16_t got = gpu::dequantised_f16(scale, minimum, code);
    const double off = std::fabs(static_cast<double>(f16_to_float(got)) - exact);
    for (const int step : {-1, 1}) {
      const auto near = static_cast<std::uint16_t>(got + step);
      if ((near & 0x7C00) == 0x7C00 || (near & 0x7FFF) == 0x7FFF) continue;
      CHECK(off <= std::fabs(static_cast<double>(f16_to_float(near)) - exact));
    }
  }
}

}  // namespace
}  // namespace foretoken
