// SPDX-License-Identifier: Apache-2.0
// Embedding, post norms, the head and its digest, copies of pages.
#include <doctest/doctest.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "tests/kernels/matrices.hpp"

namespace foretoken {
namespace {

using gpu::weight_form;
using test::at;
using test::device_array;
using test::made_workspace;
using test::random_source;
using test::read_device;

model::hyperparameters width_of(int width) {
  model::hyperparameters shape;
  shape.width = width;
  shape.ffn = width;
  shape.heads = shape.kv_heads = 1;
  shape.head_dim = 16;
  return shape;
}

TEST_CASE("embed: rows of the packed table, in every form") {
  for (const weight_form form : {weight_form::f16, weight_form::w8, weight_form::w4}) {
    random_source random(5);
    constexpr int width = 96, vocabulary = 50, rows = 9;
    const auto table =
        test::random_matrix(random, form, vocabulary, width, gpu::plain_order(vocabulary));
    const auto learned =
        test::random_matrix(random, weight_form::f16, 20, width, gpu::plain_order(20));
    const auto gain = random.normals(width);
    const device_array<float> gain_there(gain);
    std::vector<std::int32_t> tokens, positions;
    for (int r = 0; r < rows; ++r) {
      tokens.push_back((r * 17 + 49) % vocabulary);
      positions.push_back((r * 3) % 20);
    }
    const device_array<std::int32_t> token_array(tokens), position_array(positions);
    for (int pass = 0; pass < test::device_passes(); ++pass) {
      test::begin_pass(pass);
      const made_workspace work(width_of(width), rows, 16);
      gpu::embed_arguments given;
      given.rows = {token_array.get(), position_array.get(), nullptr, nullptr, 0, rows};
      given.table = table.view;
      given.positions = learned.view;
      given.scale = 3;
      given.work = work.view;
      given.next_norm.weight = gain_there.get();
      REQUIRE(gpu::launch_embed(test::device_context(), given));
      const auto got = read_device(work.view.x, at(rows * width));
      for (int r = 0; r < rows; ++r) {
        for (int i = 0; i < width; ++i) {
          const float expected = table.values[at(tokens[at(r)] * width + i)] * 3 +
                                 learned.values[at(positions[at(r)] * width + i)];
          CHECK(got[at(r * width + i)] == expected);
        }
      }
      const auto normed = test::get_halves(work.view.normed, rows, width);
      for (std::size_t i = 0; i < got.size(); ++i) {
        CHECK(normed[i] == f16_to_float(float_to_f16(got[i] * gain[i % width])));
      }
    }
  }
}

TEST_CASE("residual: a post norm comes before the sum") {
  random_source random(6);
  constexpr int width = 104, columns = 64, rows = 5;
  const auto w =
      test::random_matrix(random, weight_form::f16, width, columns, gpu::plain_order(width));
  const auto gain = random.normals(width), next = random.normals(width);
  const auto x = random.normals(rows * width);
  const auto a = random.normals(rows * columns);
  const device_array<float> gain_there(gain), next_there(next);
  for (int pass = 0; pass < test::device_passes(); ++pass) {
    test::begin_pass(pass);
    auto shape = width_of(width);
    shape.head_dim = columns;
    const made_workspace work(shape, rows, 16);
    test::device_write(work.view.x, x.data(), x.size() * 4);
    test::put_halves(work.view.attended, a, rows, columns);
    gpu::residual_arguments given;
    given.rows = rows;
    given.work = work.view;
    given.matrix = w.view;
    given.width = width;
    given.post_norm = {gain_there.get(), nullptr, 1e-6f, model::norm_kind::rms};
    given.next_norm.weight = next_there.get();
    REQUIRE(gpu::launch_attention_output(test::device_context(), given));
    std::vector<double> expected;
    for (int r = 0; r < rows; ++r) {
      std::vector<double> input, y;
      for (int k = 0; k < columns; ++k) {
        input.push_back(static_cast<double>(f16_to_float(float_to_f16(a[at(r * columns + k)]))));
      }
      double squares = 0;
      for (int n = 0; n < width; ++n) {
        y.push_back(w.times(n, input.data()));
        squares += y.back() * y.back() / width;
      }
      for (int n = 0; n < width; ++n) {
        expected.push_back(static_cast<double>(x[at(r * width + n)]) +
                           y[at(n)] / std::sqrt(squares + 1e-6) * static_cast<double>(gain[at(n)]));
      }
    }
    const auto got = read_device(work.view.x, at(rows * width));
    CHECK(test::relative_error(got, expected) < 2e-6);
    const auto sums = test::tile_sums(got, rows, width);
    CHECK(test::relative_error(read_device(work.view.squares, sums.size()), sums) < 1e-6);
  }
}

gpu::head_arguments head_of(int rows,
                            const device_array<std::int32_t>& which,
                            const made_workspace& work,
                            const device_array<float>& gain,
                            const gpu::packed_matrix& matrix,
                            const device_array<float>& logits) {
  gpu::head_arguments given;
  given.rows = rows;
  given.which = which.get();
  given.work = work.view;
  given.norm = {gain.get(), nullptr, 1e-5f, model::norm_kind::rms};
  given.matrix = matrix;
  given.logits = logits.get();
  return given;
}

TEST_CASE("head: chosen rows, capped") {
  random_source random(7);
  constexpr int width = 64, vocabulary = 150, rows = 6;
  const auto w = test::random_matrix(random, weight_form::f16, vocabulary, width,
                                     gpu::plain_order(vocabulary));
  const auto gain = random.normals(width);
  const auto x = random.normals(rows * width, 4);
  const std::vector<std::int32_t> which = {4, 0, 5};
  const device_array<float> gain_there(gain);
  const device_array<std::int32_t> which_array(which);
  for (int pass = 0; pass < test::device_passes(); ++pass) {
    test::begin_pass(pass);
    const made_workspace work(width_of(width), rows, 16);
    test::put_stream(work.view, x, gain, rows, width);
    const device_array<float> logits(at(3 * w.view.rows));
    gpu::head_arguments given = head_of(3, which_array, work, gain_there, w.view, logits);
    given.softcap = 2;
    REQUIRE(gpu::launch_head(test::device_context(), given));
    const auto all = logits.read();
    std::vector<double> got, expected;
    for (int r = 0; r < 3; ++r) {
      const float* row = x.data() + which[at(r)] * width;
      double squares = 0;
      for (int i = 0; i < width; ++i)
        squares += static_cast<double>(row[i]) * static_cast<double>(row[i]) / width;
      std::vector<double> input;
      for (int i = 0; i < width; ++i) {
        input.push_back(static_cast<double>(row[i]) * static_cast<double>(gain[at(i)]) /
                        std::sqrt(squares + 1e-5));
      }
      for (int n = 0; n < vocabulary; ++n) {
        expected.push_back(2 * std::tanh(w.times(n, input.data()) / 2));
        got.push_back(static_cast<double>(all[at(r * w.view.rows + n)]));
      }
    }
    CHECK(test::relative_error(got, expected) < 4e-4);
  }
}

TEST_CASE("digest: the best alone, found by the head") {
  random_source random(9);
  constexpr int width = 64;
  for (const auto& [vocabulary, rows] :
       {std::pair{150, 1}, std::pair{2500, 5}, std::pair{1000, 20}, std::pair{700, 70}}) {
    CAPTURE(rows);
    const auto w = test::random_matrix(random, weight_form::f16, vocabulary, width,
                                       gpu::plain_order(vocabulary));
    const auto gain = random.normals(width);
    auto x = random.normals(at(rows * width), 4);
    if (rows > 2) std::fill_n(x.begin() + width, width, 0.0f);     // all logits equal
    if (rows > 2) std::fill_n(x.begin() + 2 * width, width, NAN);  // none is a number
    std::vector<std::int32_t> which(at(rows));
    std::iota(which.begin(), which.end(), 0);
    const device_array<float> gain_there(gain);
    const device_array<std::int32_t> which_array(which);
    for (int pass = 0; pass < test::device_passes(); ++pass) {
      test::begin_pass(pass);
      const made_workspace work(width_of(width), rows, 16);
      test::put_stream(work.view, x, gain, rows, width);
      const device_array<float> logits(at(rows * w.view.rows));
      const device_array<std::byte> scratch(
          std::vector<std::byte>(gpu::digest_scratch_bytes(rows, vocabulary)));
      const device_array<gpu::logits_digest> out(at(rows));
      const device_array<std::int32_t> tokens(at(rows));
      const device_array<std::uint32_t> number(std::vector<std::uint32_t>{78}), flag(1);
      gpu::head_arguments given = head_of(rows, which_array, work, gain_there, w.view, logits);
      REQUIRE(gpu::launch_head(test::device_context(), given));
      given.best = gpu::best_logits_in(scratch.get(), vocabulary);
      for (int again = 0; again < 2; ++again) {  // places are empty again
        REQUIRE(gpu::launch_head(test::device_context(), given));
        REQUIRE(gpu::launch_digest(test::device_context(), {rows,
                                                            nullptr,
                                                            vocabulary,
                                                            0,
                                                            0,
                                                            scratch.get(),
                                                            out.get(),
                                                            tokens.get(),
                                                            {number.get(), flag.get()}}));
      }
      CHECK(flag.read()[0] == 78);
      const auto all = logits.read();
      for (int r = 0; r < rows; ++r) {
        CAPTURE(r);
        const gpu::logits_digest got = out.read()[at(r)];
        if (r == 2) {
          CHECK(got.count == 0);
          continue;
        }
        const float* row = all.data() + r * w.view.rows;
        const int best = static_cast<int>(std::max_element(row, row + vocabulary) - row);
        CHECK(got.count == 1);
        CHECK(got.id[0] == best);
        CHECK(got.logit[0] == row[best]);
        CHECK(tokens.read()[at(r)] == best);
      }
    }
  }
}

TEST_CASE("digest: best few in order, log sum exp, broken rows named") {
  random_source random(8);
  constexpr int top = 5;
  // A row's parts are merged in one launch or in two, by the number of rows.
  for (const auto& [vocabulary, rows] : {std::pair{3, 4}, std::pair{1000, 4}, std::pair{2500, 4},
                                         std::pair{2500, 11}, std::pair{35000, 4}}) {
    const int stride = vocabulary + 13;
    auto logits = random.normals(at(rows * stride), 5);
    logits[at(stride + 1)] = logits[at(stride)];  // a tie
    logits[at(2 * stride + vocabulary - 1)] = NAN;
    for (int i = 0; i < vocabulary; ++i) logits[at(3 * stride + i)] = -7.5f;  // all equal
    const device_array<float> logits_there(logits);
    for (int pass = 0; pass < test::device_passes(); ++pass) {
      test::begin_pass(pass);
      const device_array<std::byte> scratch(
          std::vector<std::byte>(gpu::digest_scratch_bytes(rows, vocabulary)));
      const device_array<gpu::logits_digest> out(at(rows));
      const device_array<std::int32_t> tokens(at(rows));
      const device_array<std::uint32_t> number(std::vector<std::uint32_t>{77}), flag(1);
      gpu::digest_arguments given{rows,
                                  logits_there.get(),
                                  vocabulary,
                                  stride,
                                  top,
                                  scratch.get(),
                                  out.get(),
                                  tokens.get(),
                                  {number.get(), flag.get()}};
      REQUIRE(gpu::launch_digest(test::device_context(), given));
      REQUIRE(gpu::launch_digest(test::device_context(), given));  // counters are as they were
      const auto got = out.read();
      CHECK(flag.read()[0] == 77);
      for (int r = 0; r < rows; ++r) {
        CAPTURE(r);
        if (r == 2) {
          CHECK(got[at(r)].count == 0);
          continue;
        }
        const float* row = logits.data() + r * stride;
        std::vector<int> order(at(vocabulary));
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return row[a] > row[b]; });
        double sum = 0;
        for (int i = 0; i < vocabulary; ++i) sum += std::exp(static_cast<double>(row[i]));
        CHECK(static_cast<double>(got[at(r)].log_sum_exp) ==
              doctest::Approx(std::log(sum)).epsilon(1e-5));
        CHECK(got[at(r)].count == std::min(top, vocabulary));
        for (int i = 0; i < std::min(top, vocabulary); ++i) {
          CHECK(got[at(r)].id[i] == order[at(i)]);
          CHECK(got[at(r)].logit[i] == row[order[at(i)]]);
        }
        CHECK(tokens.read()[at(r)] == order[0]);
      }
    }
  }
}

TEST_CASE("page copies: whole pages of every layer") {
  constexpr int layers = 2, pages = 4, kv_heads = 3, head_dim = 32;
  random_source random(9);
  const gpu::kv_pool_view shape{nullptr, pages, kv_heads, head_dim};
  std::vector<std::uint16_t> pool(layers * shape.layer_values());
  for (auto& v : pool) v = static_cast<std::uint16_t>(random.below(0x7000));
  const device_array<std::int32_t> pairs(std::vector<std::int32_t>{0, 3, 2, 1});
  const device_array<std::uint16_t> there(pool);
  gpu::page_copy_arguments given;
  given.pool = {there.get(), pages, kv_heads, head_dim};
  given.layers = layers;
  given.pairs = pairs.get();
  given.count = 2;
  REQUIRE(gpu::launch_page_copies(test::device_context(), given));
  for (std::size_t l = 0; l < layers; ++l) {
    const auto layer = pool.begin() + static_cast<std::ptrdiff_t>(l * shape.layer_values());
    const auto size = static_cast<std::ptrdiff_t>(shape.page_values());
    std::copy_n(layer, size, layer + 3 * size);
    std::copy_n(layer + 2 * size, size, layer + size);
  }
  CHECK(there.read() == pool);
}

}  // namespace
}  // namespace foretoken
