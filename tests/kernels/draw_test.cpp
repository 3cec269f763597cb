// SPDX-License-Identifier: Apache-2.0
// Tokens drawn on the device are those that model::sample() draws from the same logits.
#include <doctest/doctest.h>

#include <limits>

#include "model/philox.hpp"
#include "tests/kernels/matrices.hpp"

namespace foretoken {
namespace {

using model::sampling_parameters;
using test::at;
using test::device_array;
using test::random_source;

struct drawn_row {
  std::vector<float> logits;
  sampling_parameters how;
  std::vector<token> prompt, generated;
  std::uint64_t position = 0;

  model::sampled expected() const {
    return model::sample(logits, how, prompt, generated, position);
  }
  gpu::draw_request request() const {
    gpu::draw_request out;
    std::vector<model::adjustment> all;
    REQUIRE(
        model::collect_adjustments(how, prompt, generated, static_cast<int>(logits.size()), all));
    std::copy(all.begin(), all.end(), out.adjustments);
    out.how = {model::uniform(how.seed, position),
               how.temperature,
               how.top_p,
               how.min_p,
               how.top_k,
               static_cast<std::int32_t>(all.size()),
               1};
    return out;
  }
};

constexpr float inf = std::numeric_limits<float>::infinity();

// Rows of one vocabulary side by side. Afterwards the logits are as they were.
std::vector<gpu::drawn_token> draw(const std::vector<drawn_row>& rows, int idle = -1) {
  const auto vocabulary = rows.front().logits.size();
  const std::size_t stride = vocabulary + 13;
  std::vector<float> logits(rows.size() * stride, NAN);
  std::vector<gpu::draw_request> requests;
  for (std::size_t r = 0; r < rows.size(); ++r) {
    std::copy(rows[r].logits.begin(), rows[r].logits.end(),
              logits.begin() + static_cast<std::ptrdiff_t>(r * stride));
    requests.push_back(rows[r].request());
    if (static_cast<int>(r) == idle) requests.back().how.draws = 0;
  }
  const device_array<float> logits_there(logits);
  const device_array<gpu::draw_request> requests_there(requests);
  const device_array<gpu::drawn_token> drawn(
      std::vector<gpu::drawn_token>(rows.size(), {gpu::drawn_by_host, 0}));
  const device_array<std::uint32_t> number(std::vector<std::uint32_t>{79}), flag(1);
  const auto arrived = test::zeros<std::uint32_t>(1);
  const gpu::draw_arguments given{static_cast<int>(rows.size()),
                                  logits_there.get(),
                                  static_cast<int>(vocabulary),
                                  static_cast<int>(stride),
                                  requests_there.get(),
                                  drawn.get(),
                                  arrived.get(),
                                  {number.get(), flag.get()}};
  const status done = gpu::launch_draw(test::device_context(), given);
  REQUIRE_MESSAGE(done, (done ? "" : to_string(done.error())));
  CHECK(flag.read()[0] == 79);
  CHECK(arrived.read()[0] == 0);
  const auto after = logits_there.read();
  CHECK(std::memcmp(after.data(), logits.data(), logits.size() * sizeof(float)) == 0);
  return drawn.read();
}

void check_rows(const std::vector<drawn_row>& rows) {
  for (int pass = 0; pass < test::device_passes(); ++pass) {
    test::begin_pass(pass);
    const auto got = draw(rows);
    for (std::size_t r = 0; r < rows.size(); ++r) {
      CAPTURE(r);
      const model::sampled expected = rows[r].expected();
      CHECK(got[r].id == (expected.non_finite ? gpu::drawn_broken : expected.id));
      if (expected.id >= 0 && got[r].id == expected.id) {
        CHECK(got[r].logit == rows[r].logits[at(expected.id)]);
      }
    }
  }
}

sampling_parameters warm(float temperature, int top_k = 0, float top_p = 1, float min_p = 0) {
  sampling_parameters out;
  out.temperature = temperature;
  out.top_k = top_k;
  out.top_p = top_p;
  out.min_p = min_p;
  return out;
}

// Every kind of cut, of which some leave one token and some leave all.
std::vector<sampling_parameters> all_kinds() {
  return {warm(0),
          warm(1),
          warm(0.7f),
          warm(1.9f),
          warm(1, 0, 1, 0.05f),
          warm(0.8f, 0, 1, 1),
          warm(1, 1),
          warm(1.3f, 7),
          warm(0.9f, 40, 0.9f),
          warm(1, 50, 1, 0.1f),
          warm(1, 600),
          warm(1, 0, 0.9f),
          warm(0.6f, 0, 0.5f, 0.02f),
          warm(1.5f, 0, 0.999f),
          warm(1, 0, 0),
          warm(1e-4f),
          warm(1e-38f, 0, 0.9f),
          warm(1e30f),
          warm(1e6f, 0, 0.3f),
          warm(100, 12, 0.7f)};
}

std::vector<float> made_logits(random_source& random, int kind, std::size_t vocabulary) {
  if (kind == 0) return std::vector<float>(vocabulary, -7.5f);  // all equal
  auto out = random.normals(vocabulary, kind == 3 ? 1e37f : 4);
  if (kind == 1) {  // ties, of both zeros too
    for (float& v : out) v = std::round(v / 4) * 4;
  }
  return out;
}

TEST_CASE("draw: every kind of cut, vocabularies of odd sizes, ties, the range of float") {
  random_source random(21);
  for (const int vocabulary : {1, 15, 16, 130, 1000, 3100}) {
    CAPTURE(vocabulary);
    std::vector<drawn_row> rows;
    std::uint64_t seed = 5;
    for (const sampling_parameters& how : all_kinds()) {
      for (int kind = 0; kind < 4; ++kind) {
        if (vocabulary == 3100 && (seed + static_cast<std::uint64_t>(kind)) % 3 != 0) continue;
        drawn_row row{made_logits(random, kind, at(vocabulary)), how, {}, {}, seed % 7};
        row.how.seed = seed * 0x9E3779B97F4A7C15u;
        rows.push_back(std::move(row));
      }
      ++seed;
    }
    check_rows(rows);
  }
}

TEST_CASE("draw: seeds and positions") {
  random_source random(22);
  const auto logits = random.normals(777, 2);
  for (const sampling_parameters& how :
       {warm(1), warm(0.9f, 0, 0.95f), warm(1.1f, 64), warm(1, 0, 1, 0.03f)}) {
    std::vector<drawn_row> rows;
    for (std::uint64_t i = 0; i < 24; ++i) {
      rows.push_back({logits, how, {}, {}, i * i});
      rows.back().how.seed = i / 3;
    }
    check_rows(rows);
  }
}

TEST_CASE("draw: penalties and biases, greedy too; the logits are raw again") {
  random_source random(23);
  std::vector<drawn_row> rows;
  const auto text = [&](int count) {
    std::vector<token> out;
    for (int i = 0; i < count; ++i) out.push_back(static_cast<token>(random.below(300)) - 3);
    return out;
  };
  for (int i = 0; i < 18; ++i) {
    drawn_row row{random.normals(290, 3), warm(i % 3 == 0 ? 0 : 0.8f), text(70), text(40), 3};
    row.how.seed = at(i);
    if (i % 2 == 0) row.how.repetition_penalty = 1.7f;
    if (i % 3 == 1) row.how.presence_penalty = 0.9f;
    if (i % 5 < 2) row.how.frequency_penalty = -0.4f;
    if (i % 4 == 1) row.how.logit_bias = {{3, 6.5f}, {289, -100.0f}, {290, 9.0f}, {8, 1.0f}};
    if (i % 6 == 5) row.how.top_p = 0.8f;
    if (i % 7 == 6) row.how.top_k = 9;
    rows.push_back(std::move(row));
  }
  rows[4].how.logit_bias = {{0, std::numeric_limits<float>::max()}, {1, NAN}, {2, -inf}};
  check_rows(rows);
}

TEST_CASE("draw: what is not finite is told, whatever else is asked") {
  random_source random(24);
  std::vector<drawn_row> rows;
  for (const float bad : {NAN, inf, -inf}) {
    for (const sampling_parameters& how : {warm(0), warm(1), warm(1, 5), warm(1, 0, 0.9f)}) {
      drawn_row row{random.normals(600), how, {}, {17}, 0};
      row.logits[17] = bad;
      row.how.logit_bias = {{17, -5.0f}, {18, 1.0f}};
      rows.push_back(std::move(row));
    }
  }
  check_rows(rows);
}

TEST_CASE("draw: a large vocabulary; more candidates than are put in order are the host's") {
  random_source random(25);
  std::vector<drawn_row> rows;
  for (const sampling_parameters& how :
       {warm(0.8f), warm(1, 50), warm(1, 0, 0.9f), warm(1, 0, 1, 0.05f), warm(1, 2500)}) {
    rows.push_back({random.normals(49152, 3), how, {}, {}, 1});
  }
  check_rows(rows);
  const std::vector<float> equal(49152, 1.0f);
  rows = {{equal, warm(1, 5), {}, {}, 1},
          {equal, warm(1, 0, 0.9f), {}, {}, 1},
          {equal, warm(1, 5000), {}, {}, 1}};
  for (const gpu::drawn_token& each : draw(rows)) CHECK(each.id == gpu::drawn_by_host);
}

TEST_CASE("draw: a row has the same token alone; a row that nobody wants is passed over") {
  random_source random(26);
  std::vector<drawn_row> rows;
  for (const sampling_parameters& how : all_kinds()) {
    rows.push_back({random.normals(500, 3), how, {}, {}, 9});
  }
  const auto all = draw(rows, 3);
  for (std::size_t r = 0; r < rows.size(); ++r) {
    CHECK(all[r].id == (r == 3 ? gpu::drawn_by_host : draw({rows[r]})[0].id));
  }
}

}  // namespace
}  // namespace foretoken
