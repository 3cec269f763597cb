// SPDX-License-Identifier: Apache-2.0
// Sampled rows of whole steps: tokens drawn on the device are those that the host's sampler draws
// from the same logits, whatever stands beside them.
#include <algorithm>
#include <limits>
#include <numeric>

#include "tests/gpu/device.hpp"

namespace foretoken {
namespace {

using test::device;
using test::gpu_device;
using test::made_model;
using test::pages_from;

constexpr int slices_max = 12;

model::sampling_parameters asked(int kind) {
  model::sampling_parameters out;
  out.seed = static_cast<std::uint64_t>(kind) * 77;
  out.temperature = 0.5f + 0.25f * static_cast<float>(kind % 4);
  if (kind % 3 == 1) out.top_k = 8;
  if (kind % 3 == 2) out.top_p = 0.8f;
  if (kind % 4 == 3) out.min_p = 0.1f;
  if (kind % 5 == 0) out.temperature = 0;
  if (kind % 6 >= 4) out.repetition_penalty = 1.5f;
  if (kind % 6 == 5) out.frequency_penalty = 0.3f;
  if (kind % 7 == 2) out.logit_bias = {{5, 3.0f}, {9, -100.0f}};
  if (kind % 4 == 0) out.logprobs = kind % 12;
  return out;
}

struct sequence {
  std::vector<token> text;
  int first_page = 0;
  std::vector<token> generated;
  model::sampling_parameters how;

  model::slice last() const {
    model::slice one = device::slice(text, pages(), text.size() - 1, 1);
    one.score_all = false;
    one.sample_last = true;
    one.sampling = std::make_shared<const model::sampling_parameters>(how);
    one.prompt = std::make_shared<const std::vector<token>>(text);
    one.generated = generated;
    one.generated_count = generated.size();
    return one;
  }
  std::vector<page_id> pages() const { return pages_from(first_page, 3); }
  model::sampled expected(std::span<const float> logits) const {
    return model::sample(logits, how, text, generated, generated.size());
  }
};

class sampled_model {
 public:
  explicit sampled_model(const gpu::options& chosen = test::gpu_options(), int vocabulary = 130)
      : file_(shape_of(vocabulary)), here(file_, chosen) {
    for (int i = 0; i < slices_max; ++i) {
      sequences.push_back({file_.tokens(17 + 2 * i), 3 * i, file_.tokens(i % 5), asked(i)});
      logits.push_back(here.read(sequences.back().text, sequences.back().pages(), 64).back());
    }
    here.again(false);
    for (const sequence& each : sequences) fill(each);
  }
  model::sampled alone(std::size_t i) {
    return here.answer(test::batch_of({sequences[i].last()})).slices[0].next;
  }

 private:
  static model::hyperparameters shape_of(int vocabulary) {
    model::hyperparameters out = test::small_shape();
    out.vocabulary = vocabulary;
    return out;
  }
  made_model file_;
  // Another executor has pages of its own.
  void fill(const sequence& of) {
    here.answer(test::batch_of({device::slice(of.text, of.pages(), 0, of.text.size() - 1)}));
  }

 public:
  gpu_device here;
  std::vector<sequence> sequences;
  std::vector<std::vector<float>> logits;
};

void check_near(const model::sampled& got, const model::sampled& expected) {
  CHECK(got.id == expected.id);
  CHECK(got.logprob == doctest::Approx(expected.logprob).epsilon(1e-5));
  REQUIRE(got.top.size() == expected.top.size());
  for (std::size_t i = 0; i < got.top.size(); ++i) {
    CHECK(got.top[i].id == expected.top[i].id);
    CHECK(got.top[i].logprob == doctest::Approx(expected.top[i].logprob).epsilon(1e-5));
  }
}

void check_same(const model::sampled& got, const model::sampled& expected) {
  CHECK(got.id == expected.id);
  CHECK(got.logprob == expected.logprob);
  REQUIRE(got.top.size() == expected.top.size());
  for (std::size_t i = 0; i < got.top.size(); ++i) {
    CHECK(got.top[i].id == expected.top[i].id);
    CHECK(got.top[i].logprob == expected.top[i].logprob);
  }
}

TEST_CASE("gpu draw: the host's tokens; the same bits alone, in a batch, and when recorded") {
  sampled_model made;
  std::vector<model::sampled> alone;
  model::micro_batch batch;
  for (std::size_t i = 0; i < made.sequences.size(); ++i) {
    CAPTURE(i);
    alone.push_back(made.alone(i));
    check_near(alone[i], made.sequences[i].expected(made.logits[i]));
    batch.slices.push_back(made.sequences[i].last());
  }
  for (int turn = 0; turn < 2; ++turn) {
    const auto all = made.here.answer(batch);
    for (std::size_t i = 0; i < alone.size(); ++i) check_same(all.slices[i].next, alone[i]);
  }
}

// 32 rows of logits at once; a block's rows may come back to the host before the next.
TEST_CASE("gpu draw: more rows than there are logits at once have the bits that they have alone") {
  auto chosen = test::gpu_options();
  chosen.rows_max = 64;
  sampled_model made(chosen);
  std::vector<model::sampled> alone;
  for (std::size_t i = 0; i < made.sequences.size(); ++i) alone.push_back(made.alone(i));
  model::micro_batch batch;
  for (std::size_t i = 0; i < 40; ++i) {
    batch.slices.push_back(made.sequences[i % alone.size()].last());
  }
  for (int turn = 0; turn < 2; ++turn) {  // recorded, replayed
    const auto together = made.here.answer(batch);
    for (std::size_t i = 0; i < batch.slices.size(); ++i) {
      CAPTURE(i);
      check_same(together.slices[i].next, alone[i % alone.size()]);
    }
  }
}

TEST_CASE("gpu draw: steps whose head runs block by block have one recording, whatever is wanted") {
  auto chosen = test::gpu_options();
  chosen.rows_max = 64;
  sampled_model made(chosen);
  std::vector<model::micro_batch> batches;
  std::vector<std::vector<model::sampled>> alone;
  for (const int logprobs : {-1, 0, 10, 30}) {
    auto& batch = batches.emplace_back();
    auto& expected = alone.emplace_back();
    for (std::size_t i = 0; i < 40; ++i) {
      sequence one = made.sequences[i % made.sequences.size()];
      one.how.logprobs = logprobs;
      batch.slices.push_back(one.last());
      expected.push_back(made.here.answer(test::batch_of({one.last()})).slices[0].next);
    }
  }
  made.here.answer(batches[0]);
  const auto before = made.here.ops().recordings();
  for (std::size_t b = 0; b < batches.size(); ++b) {
    const auto together = made.here.answer(batches[b]);
    for (std::size_t i = 0; i < alone[b].size(); ++i) {
      CAPTURE(i);
      check_same(together.slices[i].next, alone[b][i]);
    }
  }
  CHECK(made.here.ops().recordings() == before);
}

TEST_CASE("gpu draw: a step without rows of the head is recorded beside one whose head is apart") {
  auto chosen = test::gpu_options();
  chosen.rows_max = 64;
  sampled_model made(chosen);
  model::micro_batch drawn, silent;
  for (std::size_t i = 0; i < 48; ++i) {
    drawn.slices.push_back(made.sequences[i % made.sequences.size()].last());
    silent.slices.push_back(drawn.slices.back());
    silent.slices.back().sample_last = false;
  }
  made.here.answer(drawn);
  const auto before = made.here.ops().recordings();
  for (int turn = 0; turn < 2; ++turn) made.here.answer(silent);
  CHECK(made.here.ops().recordings() == before + 1);
  const auto again = made.here.answer(drawn);
  for (std::size_t i = 0; i < made.sequences.size(); ++i) {
    check_same(again.slices[i].next, made.alone(i));
  }
}

TEST_CASE("gpu draw: many seeds and positions, nothing but tokens wanted") {
  sampled_model made;
  for (int turn = 0; turn < 20; ++turn) {
    model::micro_batch batch;
    for (sequence& each : made.sequences) {
      each.how.logprobs = -1;
      each.how.seed = static_cast<std::uint64_t>(turn) / 2;
      each.generated.push_back(static_cast<token>(turn));
      batch.slices.push_back(each.last());
    }
    const auto all = made.here.answer(batch);
    for (std::size_t i = 0; i < made.sequences.size(); ++i) {
      CHECK(all.slices[i].next.id == made.sequences[i].expected(made.logits[i]).id);
    }
  }
}

TEST_CASE("gpu draw: rows that the device leaves to the host, among others") {
  sampled_model made;
  made.sequences[1].how.logit_bias = {{7, 2.0f}, {7, 1.5f}};  // an id twice
  made.sequences[2].how.logprobs = gpu::digest_top + 1;
  made.sequences[4].how.logit_bias = {{7, 100.0f}, {7, -100.0f}, {8, 3.0f}};
  model::micro_batch batch;
  for (const sequence& each : made.sequences) batch.slices.push_back(each.last());
  const auto all = made.here.answer(batch);
  for (std::size_t i = 0; i < made.sequences.size(); ++i) {
    CAPTURE(i);
    check_near(all.slices[i].next, made.sequences[i].expected(made.logits[i]));
    check_same(all.slices[i].next, made.alone(i));
  }
}

TEST_CASE(
    "gpu draw: rows too flat, or with too many adjustments, come back when the step has ended") {
  constexpr int vocabulary = 5000;
  sampled_model made(test::gpu_options(), vocabulary);
  made.sequences[1].how.temperature = 1e6f;
  made.sequences[1].how.top_k = 0;
  made.sequences[1].how.top_p = 0.95f;
  made.sequences[3].how.top_k = 4500;
  made.sequences[5].generated.resize(gpu::draw_adjustments + 50);
  std::iota(made.sequences[5].generated.begin(), made.sequences[5].generated.end(), 7);
  model::micro_batch batch;
  for (const sequence& each : made.sequences) batch.slices.push_back(each.last());
  for (int turn = 0; turn < 2; ++turn) {
    model::step_result all;
    REQUIRE(model::queue(made.here.ops(), batch, all));
    CHECK(all.slices[1].next.id == -1);
    REQUIRE(made.here.ops().finish(all));
    for (std::size_t i = 0; i < made.sequences.size(); ++i) {
      CAPTURE(i);
      check_near(all.slices[i].next, made.sequences[i].expected(made.logits[i]));
    }
  }
}

TEST_CASE("gpu draw: beside rows that are scored, also beyond one block of logits") {
  auto chosen = test::gpu_options();
  chosen.rows_max = 300;
  sampled_model made(chosen);
  std::vector<token> text;
  for (int i = 0; i < 270; ++i) text.push_back(static_cast<token>(i % 90));
  model::micro_batch batch;
  batch.slices = {device::slice(text, pages_from(40, 17), 0, text.size())};
  for (const sequence& each : made.sequences) batch.slices.push_back(each.last());
  const auto all = made.here.answer(batch);
  CHECK(all.slices[0].scores.size() == text.size());
  for (std::size_t i = 0; i < made.sequences.size(); ++i) {
    CAPTURE(i);
    check_same(all.slices[i + 1].next, made.alone(i));
  }
}

TEST_CASE("gpu draw: logits that are not finite are reported, not drawn from") {
  made_model file(test::small_shape());
  made_model::scale(file.tensors.head, std::numeric_limits<float>::infinity());
  gpu_device here(file);
  here.again(false);
  sequence one{file.tokens(1), 0, {}, asked(2)};
  const auto got = here.answer(test::batch_of({one.last()}));
  CHECK(got.slices[0].next.non_finite);
  CHECK(got.slices[0].next.id == -1);
}

}  // namespace
}  // namespace foretoken
