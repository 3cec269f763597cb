// SPDX-License-Identifier: Apache-2.0
// Queries, keys and values: product, bias, norms of heads, rotation, and their place in the pages.
#include <doctest/doctest.h>

#include "tests/kernels/matrices.hpp"

namespace foretoken {
namespace {

using test::at;
using test::device_array;
using test::made_matrix;
using test::made_workspace;
using test::random_source;
using test::read_device;

struct heads_shape {
  int width, heads, kv_heads, head_dim, pairs;
  bool neighbours, biased, norms;
};
constexpr heads_shape heads_shapes[] = {
    {576, 9, 3, 64, 32, false, false, false}, {64, 4, 2, 32, 16, true, true, false},
    {96, 2, 1, 128, 64, false, false, true},  {72, 3, 3, 48, 16, false, true, false},
    {64, 2, 2, 256, 128, false, false, true}, {64, 2, 1, 32, 0, false, true, false},
};

class heads_case {
 public:
  explicit heads_case(const heads_shape& shape)
      : shape_(shape),
        random_(11),
        matrix_(test::random_matrix(
            random_,
            gpu::weight_form::f16,
            all_heads() * shape.head_dim,
            shape.width,
            gpu::qkv_order(
                shape.heads, shape.kv_heads, shape.head_dim, shape.pairs, shape.neighbours),
            shape.biased)),
        x_(random_.normals(at(rows_max * shape.width), 5)),
        gain_(random_.normals(at(shape.width))),
        q_norm_(random_.normals(at(shape.head_dim))),
        k_norm_(random_.normals(at(shape.head_dim))) {
    for (int p = 0; p < context; ++p) {
      for (int i = 0; i < 2 * shape.pairs; ++i) {
        const double angle = p * std::pow(0.7, i % shape.pairs);
        angles_.push_back(static_cast<float>(i < shape.pairs ? std::cos(angle) : std::sin(angle)));
      }
    }
  }
  int all_heads() const { return shape_.heads + 2 * shape_.kv_heads; }

  static constexpr int rows_max = 37;
  static constexpr int context = 64;
  static int position(int row) { return (row * 5 + 3) % 37; }  // each once

  struct result {
    std::vector<std::uint16_t> q, pool;
  };
  result run(int rows, gpu::kv_form form) const {
    std::vector<std::int32_t> positions, tables(at(rows), 0);
    for (int r = 0; r < rows; ++r) positions.push_back(position(r));
    const device_array<std::int32_t> position_array(positions), table_array(tables),
        pages(std::vector<std::int32_t>{2, 0, 3, 1});
    const device_array<float> gain(gain_);
    const device_array<float> q_norm(q_norm_), k_norm(k_norm_),
        angles(angles_.empty() ? std::vector<float>(4) : angles_);
    auto pool = test::zeros<std::uint16_t>(at(4 * shape_.kv_heads) *
                                           gpu::kv_head_values(form, shape_.head_dim));
    model::hyperparameters hyper;
    hyper.width = shape_.width;
    hyper.heads = shape_.heads;
    hyper.kv_heads = shape_.kv_heads;
    hyper.head_dim = shape_.head_dim;
    const made_workspace work(hyper, rows, context);
    test::put_stream(work.view, x_, gain_, rows, shape_.width);
    gpu::attention_input_arguments given;
    given.rows = {nullptr, position_array.get(), table_array.get(), pages.get(), 4, rows};
    given.work = work.view;
    given.norm = {gain.get(), nullptr, 1e-5f, model::norm_kind::rms};
    given.qkv = matrix_.view;
    given.heads = shape_.heads;
    given.kv_heads = shape_.kv_heads;
    given.head_dim = shape_.head_dim;
    given.angles = shape_.pairs > 0 ? angles.get() : nullptr;
    given.pairs = shape_.pairs;
    given.rope_neighbours = shape_.neighbours;
    if (shape_.norms) {
      given.q_norm = q_norm.get();
      given.k_norm = k_norm.get();
      given.head_norm_epsilon = 1e-5f;
    }
    given.query_scale = 0.125f;
    given.kv = pool.get();
    given.form = form;
    const status done = gpu::launch_attention_input(test::device_context(), given);
    REQUIRE_MESSAGE(done, (done ? "" : to_string(done.error())));
    return {read_device(work.view.q, at(rows * shape_.heads * shape_.head_dim)), pool.read()};
  }

  // Head h of row r as the formulas say.
  std::vector<double> expected(int row, int head) const {
    const int n = shape_.width, dim = shape_.head_dim;
    double squares = 0;
    for (int i = 0; i < n; ++i) squares += square(x_[at(row * n + i)]) / n;
    std::vector<double> input;
    for (int i = 0; i < n; ++i) {
      input.push_back(wide(x_[at(row * n + i)]) / std::sqrt(squares + 1e-5) * wide(gain_[at(i)]));
    }
    std::vector<double> y;
    for (int d = 0; d < dim; ++d) y.push_back(matrix_.times(head * dim + d, input.data()));
    if (head >= shape_.heads + shape_.kv_heads) return y;
    if (shape_.norms) {
      double sum = 0;
      for (const double v : y) sum += v * v / dim;
      for (int d = 0; d < dim; ++d) {
        y[at(d)] *= wide((head < shape_.heads ? q_norm_ : k_norm_)[at(d)]) / std::sqrt(sum + 1e-5);
      }
    }
    for (int i = 0; i < shape_.pairs; ++i) {
      double& a = y[at(shape_.neighbours ? 2 * i : i)];
      double& b = y[at(shape_.neighbours ? 2 * i + 1 : i + shape_.pairs)];
      const double angle = position(row) * std::pow(0.7, i);
      const double turned = a * std::cos(angle) - b * std::sin(angle);
      b = a * std::sin(angle) + b * std::cos(angle);
      a = turned;
    }
    if (head < shape_.heads) {
      for (double& v : y) v *= 0.125;
    }
    return y;
  }

  double stored(const result& from, gpu::kv_form form, int row, int head, int d) const {
    const int dim = shape_.head_dim;
    if (head < shape_.heads) {
      return wide(f16_to_float(from.q[at((row * shape_.heads + head) * dim + d)]));
    }
    constexpr int pages[] = {2, 0, 3, 1};
    const bool value = head >= shape_.heads + shape_.kv_heads;
    const int kv = head - shape_.heads - (value ? shape_.kv_heads : 0);
    const int token = position(row) % 16;
    const std::uint16_t* const first =
        from.pool.data() +
        at(pages[position(row) / 16] * shape_.kv_heads + kv) * gpu::kv_head_values(form, dim);
    const int r = value ? d % 16 : token, c = value ? token : d % 16;
    const int lane = r % 8 * 4 + c % 8 / 2;
    const int j = c % 2 + 2 * (r / 8) + 4 * (c / 8);
    const int place = (value ? 16 * dim : 0) + d / 16 * 256 + lane * 8 + j;
    if (form == gpu::kv_form::f16) return wide(f16_to_float(first[place]));
    const int code = reinterpret_cast<const unsigned char*>(first)[place] - 128;
    return code * wide(f16_to_float(first[16 * dim + (value ? 16 : 0) + token]));
  }

 private:
  static double wide(float v) { return static_cast<double>(v); }
  static double square(float v) { return wide(v) * wide(v); }
  heads_shape shape_;
  random_source random_;
  made_matrix matrix_;
  std::vector<float> x_, gain_, q_norm_, k_norm_, angles_;
};

void check_heads(const heads_case& one, const heads_shape& shape, gpu::kv_form form) {
  std::vector<std::uint16_t> before;
  std::vector<double> kept;
  for (const int rows : {1, 7, heads_case::rows_max}) {
    CAPTURE(rows);
    const auto got = one.run(rows, form);
    CHECK(std::equal(before.begin(), before.end(), got.q.begin()));
    before = got.q;
    std::vector<double> stored, expected;
    for (int row = 0; row < rows; row += row < 7 ? 1 : 6) {
      for (int head = 0; head < one.all_heads(); ++head) {
        const auto formula = one.expected(row, head);
        for (int d = 0; d < shape.head_dim; ++d) {
          stored.push_back(one.stored(got, form, row, head, d));
          expected.push_back(formula[at(d)]);
        }
      }
    }
    // A code is at most half a step of largest / 127 away; the largest of 256 is 4 deviations.
    CHECK(test::relative_error(stored, expected) < (form == gpu::kv_form::f16 ? 8e-4 : 1.2e-2));
    CHECK(std::equal(kept.begin(), kept.end(), stored.begin()));
    kept = stored;
  }
}

TEST_CASE("attention input: heads as the formulas say, the same bits in any batch") {
  for (const heads_shape& shape : heads_shapes) {
    CAPTURE(shape.width);
    CAPTURE(shape.head_dim);
    const heads_case one(shape);
    for (int pass = 0; pass < test::device_passes(); ++pass) {
      test::begin_pass(pass);
      for (const gpu::kv_form form : {gpu::kv_form::f16, gpu::kv_form::int8}) {
        CAPTURE(form);
        check_heads(one, shape, form);
      }
    }
  }
}

}  // namespace
}  // namespace foretoken
