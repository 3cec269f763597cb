// SPDX-License-Identifier: Apache-2.0
// Steps over the emulated device: the same bits in any batch, choices, copies, refusals, a lost
// device.
#include <algorithm>
#include <numeric>
#include <thread>

#include "base/counters.hpp"
#include "gpu/runtime.hpp"
#include "tests/gpu/device.hpp"
#include "tests/reference/forward.hpp"
#include "tests/reference/worst.hpp"

namespace foretoken {
namespace {

using test::device;
using test::gpu_device;
using test::made_model;
using test::pages_from;

// Sizes that need padding: heads of 24 with 12 rotated pairs, a feed-forward size of 92.
model::hyperparameters made_shape(bool gated = true) {
  model::hyperparameters shape = test::small_shape();
  shape.ffn = 92;
  if (gated) {
    shape.attention = {{0, 0}, {20, 0}};
    shape.attention_softcap = 5;
    shape.final_softcap = 9;
    return shape;
  }
  shape.ropes.clear();
  shape.norm = model::norm_kind::layer;
  shape.activation = model::activation_kind::gelu_tanh;
  shape.learned_positions = true;
  shape.attention = {{0, -1}, {0, -1}};
  return shape;
}

model::sampling_parameters greedy(int logprobs = -1) {
  model::sampling_parameters out;
  out.temperature = 0;
  out.logprobs = logprobs;
  return out;
}

model::slice sampled_slice(const std::vector<token>& text, model::sampling_parameters how) {
  model::slice one = device::slice(text, pages_from(0, 4), 0, text.size());
  one.score_all = false;
  one.sample_last = true;
  one.sampling = std::make_shared<const model::sampling_parameters>(std::move(how));
  return one;
}

TEST_CASE("gpu step: logits are those of the float64 formulas") {
  for (const bool neighbours : {false, true}) {
    for (const bool gated : {true, false}) {
      model::hyperparameters shape = made_shape(gated);
      shape.rope_neighbours = neighbours && gated;
      made_model file(shape);
      const auto text = file.tokens(70);
      gpu_device here(file);
      const auto rows = here.read(text, pages_from(0, 6), 128);
      const auto expected = reference::forward(file, text);
      double worst = 0, largest = 0;
      for (std::size_t t = 0; t < text.size(); ++t) {
        for (std::size_t n = 0; n < rows[t].size(); ++n) {
          largest = std::max(largest, std::abs(expected[t][n]));
          worst =
              reference::worse(worst, std::abs(static_cast<double>(rows[t][n]) - expected[t][n]));
        }
      }
      CAPTURE(gated);
      CAPTURE(neighbours);
      CHECK(worst / largest < 1e-2);  // f16 activations, logits near their cap
    }
  }
}

TEST_CASE("gpu step: seven sequences in one batch have the bits they have alone") {
  made_model file(made_shape());
  gpu_device here(file);
  test::row_logits alone;
  model::micro_batch batch;
  for (int s = 0; s < 7; ++s) {
    const auto text = file.tokens(18 + 5 * s);
    const auto pages = pages_from(5 * s, 5);
    const std::size_t before = text.size() - (s % 2 == 0 ? 1 : 9);  // decode and prefill mixed
    here.run(test::batch_of({device::slice(text, pages, 0, before)}));
    batch.slices.push_back(device::slice(text, pages, before, text.size()));
    const auto rows = here.run(test::batch_of({batch.slices.back()}));
    alone.insert(alone.end(), rows.begin(), rows.end());
  }
  CHECK(here.run(batch) == alone);
  CHECK(here.run(batch) == alone);  // the same step again, recorded by now
}

TEST_CASE("gpu step: a copied page continues like the original and leaves it alone") {
  made_model file(made_shape());
  const auto text = file.tokens(30);
  for (const gpu::kv_form form : {gpu::kv_form::f16, gpu::kv_form::int8}) {
    CAPTURE(form);
    auto chosen = test::gpu_options();
    chosen.kv = form;
    gpu_device here(file, chosen);
    const auto whole = here.read(text, pages_from(0, 2), 64);
    model::micro_batch batch;
    batch.copies = {{page_id{1}, page_id{5}, 6}, {page_id{5}, page_id{9}, 6}};
    batch.slices = {device::slice(text, {page_id{0}, page_id{9}}, 22, 8)};
    const auto rows = here.run(batch);
    CHECK(std::equal(rows.begin(), rows.end(), whole.begin() + 22));
    const auto last = here.run(test::batch_of({device::slice(text, pages_from(0, 2), 29, 1)}));
    CHECK(last.front() == whole[29]);
  }
}

TEST_CASE("gpu step: choices by digest are those of the host's sampler") {
  made_model file(made_shape());
  const auto text = file.tokens(20);
  gpu_device here(file);
  const auto logits = here.read(text, pages_from(0, 4), 64).back();
  here.again(false);
  for (const int logprobs : {-1, 0, 10, 25}) {
    const auto expected = model::sample(logits, greedy(logprobs), {}, {}, 0);
    const auto got = here.answer(test::batch_of({sampled_slice(text, greedy(logprobs))}));
    const model::sampled& next = got.slices[0].next;
    CHECK(next.id == expected.id);
    CHECK(next.logprob == doctest::Approx(expected.logprob).epsilon(1e-5));
    REQUIRE(next.top.size() == expected.top.size());
    for (std::size_t i = 0; i < next.top.size(); ++i) {
      CHECK(next.top[i].id == expected.top[i].id);
      CHECK(next.top[i].logprob == doctest::Approx(expected.top[i].logprob).epsilon(1e-5));
    }
  }
  model::sampling_parameters warm;
  warm.temperature = 0.8f;
  warm.top_p = 0.9f;
  warm.logprobs = 3;
  warm.seed = 7;
  const auto got = here.answer(test::batch_of({sampled_slice(text, warm)}));
  const auto expected = model::sample(logits, warm, {}, {}, 0);
  CHECK(got.slices[0].next.id == expected.id);
  CHECK(got.slices[0].next.logprob == doctest::Approx(expected.logprob).epsilon(1e-5));
}

TEST_CASE("gpu step: scores are those of the rows' logits, also beyond one block of logits") {
  made_model file(made_shape());
  const auto text = file.tokens(100);
  gpu_device here(file);
  const auto logits = here.read(text, pages_from(0, 7), 128);
  here.again(false);
  const auto got = here.answer(test::batch_of({device::slice(text, pages_from(0, 7), 0, 100)}));
  REQUIRE(got.slices[0].scores.size() == 100);
  for (std::size_t i = 0; i + 1 < text.size(); ++i) {
    const auto expected = model::score(logits[i], text[i + 1], 0);
    CHECK(got.slices[0].scores[i].logprob == expected.logprob);
  }
}

TEST_CASE("gpu step: logits that are not finite are reported, not sampled") {
  made_model file(made_shape());
  made_model::scale(file.tensors.head, std::numeric_limits<float>::infinity());
  gpu_device here(file);
  here.again(false);
  const auto got = here.answer(test::batch_of({sampled_slice(file.tokens(3), greedy())}));
  CHECK(got.slices[0].next.non_finite);
  CHECK(got.slices[0].next.id == -1);
}

TEST_CASE("gpu step: a batch that breaks the contract is refused by name") {
  made_model file(made_shape());
  gpu_device here(file);
  const auto text = file.tokens(20);
  auto refused = [&](model::slice one) {
    auto out = model::forward(here.ops(), test::batch_of({std::move(one)}));
    return out ? std::string("accepted") : out.error().field;
  };
  const model::slice good = device::slice(text, pages_from(0, 2), 0, 20);
  CHECK(refused(good) == "accepted");
  auto bad = good;
  bad.pages.pop_back();
  CHECK(refused(bad) == "slice.pages");
  bad = good;
  bad.pages[0] = page_id{here.ops().pages()};
  CHECK(refused(bad) == "slice.pages");
  bad = good;
  bad.tokens[3] = 130;
  CHECK(refused(bad) == "slice.tokens");
}

bool same_choice(const model::sampled& a, const model::sampled& b) {
  return a.id == b.id && a.logprob == b.logprob &&
         std::equal(
             a.top.begin(), a.top.end(), b.top.begin(), b.top.end(),
             [](const auto& x, const auto& y) { return x.id == y.id && x.logprob == y.logprob; });
}

TEST_CASE("gpu step: more rows of the head than fit at once have the bits they have alone") {
  made_model file(made_shape());
  auto chosen = test::gpu_options();
  chosen.rows_max = 200;  // logits of 32 rows at once, the best ids of 128
  gpu_device here(file, chosen);
  here.again(false);
  for (const int logprobs : {-1, 3}) {
    CAPTURE(logprobs);
    model::micro_batch batch;
    for (int s = 0; s < 150; ++s) {
      auto one = sampled_slice(file.tokens(1 + s % 3), greedy(logprobs));
      one.tokens[0] = s % 130;
      one.tokens.resize(1);
      one.pages = {page_id{s}};
      batch.slices.push_back(one);
    }
    const auto together = here.answer(batch);
    const auto replayed = here.answer(batch);
    for (std::size_t s = 0; s < batch.slices.size(); ++s) {
      const auto alone = here.answer(test::batch_of({batch.slices[s]}));
      CHECK(same_choice(together.slices[s].next, alone.slices[0].next));
      CHECK(same_choice(replayed.slices[s].next, alone.slices[0].next));
    }
  }
}

TEST_CASE("gpu step: attention of long sequences by several launches has the bits of one") {
  auto shape = made_shape();
  shape.context = 6000;
  made_model file(shape);
  auto chosen = test::gpu_options();
  chosen.rows_max = 32;  // of 24 spans, in the class of 6,000 positions, 5 tiles at once
  gpu_device here(file, chosen);
  here.read(file.tokens(120), pages_from(0, 8), 32);
  std::vector<page_id> pages;  // the same few pages over and over are a long history
  for (int i = 0; i < 6000 / page_tokens; ++i) pages.push_back(page_id{i % 7});
  model::micro_batch batch;
  test::row_logits alone;
  for (int s = 0; s < 4; ++s) {
    auto own = pages;
    for (int i = 0; i < 2; ++i)
      own[static_cast<std::size_t>(5800 / page_tokens + i)] = page_id{20 + 2 * s + i};
    model::slice one = device::slice(file.tokens(6000), own, static_cast<std::size_t>(5801 + s), 8);
    one.tokens[0] = s;
    batch.slices.push_back(one);
    for (int i = 0; i < 8; ++i) {  // a row at a time
      model::slice row = one;
      row.position += i;
      row.tokens = {one.tokens[static_cast<std::size_t>(i)]};
      const auto rows = here.run(test::batch_of({row}));
      alone.insert(alone.end(), rows.begin(), rows.end());
    }
  }
  CHECK(here.run(batch) == alone);
}

TEST_CASE("gpu step: one beside the first takes few rows, and refuses more by name") {
  made_model file(made_shape());
  auto chosen = test::gpu_options();
  chosen.flights = 2;
  chosen.beside_rows_max = 16;
  gpu_device here(file, chosen);
  here.again(false);
  const auto other = here.ops().beside();
  REQUIRE(other);
  CHECK(here.ops().rows_max() == 128);
  CHECK((*other)->rows_max() == 16);
  const auto small = test::batch_of({sampled_slice(file.tokens(16), greedy(3))});
  const auto fits = model::forward(**other, small);
  REQUIRE(fits);
  CHECK(same_choice(fits->slices[0].next, here.answer(small).slices[0].next));
  const auto refused =
      model::forward(**other, test::batch_of({sampled_slice(file.tokens(17), greedy(3))}));
  REQUIRE_FALSE(refused);
  CHECK(refused.error().field == "micro_batch");
}

TEST_CASE("gpu step: steps beside each other share the pages and have the bits they have alone") {
  made_model file(made_shape());
  gpu_device here(file);
  here.again(false);
  auto other = here.ops().beside();
  REQUIRE(other);
  const auto sampled = [&](int first_page, std::size_t from, std::size_t to, int seed) {
    auto one = device::slice(file.tokens(40 + seed), pages_from(first_page, 4), from, to - from);
    one.score_all = false;
    one.sample_last = true;
    one.sampling = std::make_shared<const model::sampling_parameters>(greedy(25));
    return test::batch_of({one});
  };
  const auto same = [](const model::step_result& a, const model::step_result& b) {
    return same_choice(a.slices[0].next, b.slices[0].next);
  };
  std::vector<model::micro_batch> parts{sampled(0, 0, 20, 1), sampled(10, 0, 25, 2),
                                        sampled(0, 20, 40, 1), sampled(10, 25, 26, 2)};
  std::vector<model::step_result> alone;
  for (const auto& part : parts) alone.push_back(here.answer(part));
  for (std::size_t i = 0; i < parts.size(); i += 2) {  // each continues what the other computed
    model::step_result first, second;
    model::ops& even = i == 0 ? here.ops() : **other;
    model::ops& odd = i == 0 ? **other : here.ops();
    REQUIRE(model::queue(even, parts[i], first));
    REQUIRE(model::queue(odd, parts[i + 1], second));
    while (!odd.done()) {
    }
    REQUIRE(odd.finish(second));
    REQUIRE(even.finish(first));
    CHECK(same(first, alone[i]));
    CHECK(same(second, alone[i + 1]));
  }
}

// Prompts of 32 tokens, one to as many as there are rows, each with what most requests want.
std::vector<model::micro_batch> usual_prompts(made_model& file, int rows_max) {
  std::vector<model::micro_batch> out;
  for (const int logprobs : {10, -1}) {
    for (int count = 1; 32 * count <= rows_max; ++count) {
      model::micro_batch batch;
      for (int i = 0; i < count; ++i) {
        auto one = sampled_slice(file.tokens(32), greedy(logprobs));
        one.tokens[0] = i;
        one.pages = pages_from(2 * i, 2);
        batch.slices.push_back(one);
      }
      out.push_back(batch);
    }
  }
  return out;
}

TEST_CASE("gpu step: usual sizes recorded at the start come with the same bits, none is left") {
  made_model file(made_shape());
  auto chosen = test::gpu_options();
  chosen.rows_max = 64;
  chosen.record_at_start = std::chrono::milliseconds(0);
  gpu_device late(file, chosen);
  late.again(false);
  REQUIRE(late.ops().record_usual());
  CHECK(late.ops().recordings() == 0);
  chosen.record_at_start = std::chrono::minutes(10);
  gpu_device early(file, chosen);
  early.again(false);
  REQUIRE(early.ops().record_usual());
  const auto recorded = early.ops().recordings();
  CHECK(recorded == gpu::usual_buckets(64, 32, file.shape.context, true).size());
  for (const auto& batch : usual_prompts(file, 64)) {
    const auto expected = late.answer(batch);
    const auto got = early.answer(batch);
    for (std::size_t s = 0; s < batch.slices.size(); ++s) {
      CHECK(same_choice(got.slices[s].next, expected.slices[s].next));
    }
  }
  for (const int position : {40, 100}) {
    for (const float temperature : {0.0f, 1.0f}) {
      auto how = greedy(-1);
      how.temperature = temperature;
      model::micro_batch decodes;
      for (int i = 0; i < 2; ++i) {
        auto one = sampled_slice({token{7}}, how);
        one.position = position;
        one.pages = pages_from(2 * i, 2);  // of these prompts, and others that nobody wrote
        for (const page_id page : pages_from(40 + 5 * i, position / 16 - 1)) {
          one.pages.push_back(page);
        }
        decodes.slices.push_back(one);
      }
      const auto expected = late.answer(decodes);
      const auto got = early.answer(decodes);
      for (std::size_t i = 0; i < 2; ++i) {
        CHECK(same_choice(got.slices[i].next, expected.slices[i].next));
      }
    }
  }
  CHECK(early.ops().recordings() == recorded);
  CHECK(late.ops().recordings() > 0);
  const auto other = early.ops().beside();
  REQUIRE(other);
  CHECK(dynamic_cast<gpu::step&>(**other).recordings() == recorded);
  const auto weights = gpu::linked().prepare_weights(file, chosen, {});
  const auto made = gpu::linked().make_ops(*weights, chosen);
  REQUIRE(made);
  CHECK(dynamic_cast<gpu::step&>(**made).recordings() >= recorded);  // and what was tried before
}

TEST_CASE("gpu step: recording at the start is no step that gpu.fail_at_step counts") {
  made_model file(made_shape());
  auto chosen = test::gpu_options();
  chosen.rows_max = 32;
  chosen.fail_at_step = 2;
  gpu_device here(file, chosen);
  REQUIRE(here.ops().record_usual());
  const auto batch = test::batch_of({device::slice(file.tokens(3), pages_from(0, 1), 0, 3)});
  CHECK(model::forward(here.ops(), batch));
  CHECK_FALSE(model::forward(here.ops(), batch));
  gpu::runtime::find_again();
}

TEST_CASE("gpu step: a lost device refuses everything afterwards") {
  made_model file(made_shape());
  auto chosen = test::gpu_options();
  chosen.fail_at_step = 2;
  gpu_device here(file, chosen);
  const auto batch = test::batch_of({device::slice(file.tokens(3), pages_from(0, 1), 0, 3)});
  CHECK(model::forward(here.ops(), batch));
  const auto failed = model::forward(here.ops(), batch);
  REQUIRE_FALSE(failed);
  CHECK(failed.error().code == errc::device);
  CHECK(gpu::linked().lost(0));
  CHECK_FALSE(model::forward(here.ops(), batch));
  const auto again = gpu::linked().prepare_weights(file, chosen, {});
  REQUIRE_FALSE(again);
  CHECK(again.error().code == errc::device);
  gpu::runtime::find_again();
}

TEST_CASE("gpu step: a lost device leaves another as it was") {
  made_model file(made_shape());
  auto first = test::gpu_options();
  first.fail_at_step = 1;
  auto second = test::gpu_options();
  second.device = 1;
  const auto batch = test::batch_of({device::slice(file.tokens(3), pages_from(0, 1), 0, 3)});
  std::thread([&] {
    gpu_device here(file, first);
    CHECK_FALSE(model::forward(here.ops(), batch));
  }).join();
  CHECK(gpu::linked().lost(0));
  CHECK_FALSE(gpu::linked().lost(1));
  std::thread([&] {
    gpu_device here(file, second);
    CHECK(model::forward(here.ops(), batch));
  }).join();
  gpu::runtime::find_again();
}

TEST_CASE("gpu plan: parts are counted before they are taken") {
  made_model file(made_shape());
  auto chosen = test::gpu_options();
  const auto plan = gpu::linked().plan_memory(file, chosen);
  REQUIRE(plan);
  // keys and values, heads of 24 padded to 32, f16, 16 positions, 2 heads, 2 layers
  CHECK(plan->kv_page_bytes == 2 * 32 * 2 * 16 * 2 * 2);
  CHECK(plan->kv_bytes == (static_cast<std::uint64_t>(plan->kv_pages) + 1) * plan->kv_page_bytes);
  CHECK(plan->weight_bytes > 0);
  CHECK(plan->workspace_bytes > 0);
  CHECK(plan->total_bytes() > plan->kv_bytes + plan->weight_bytes);
  CHECK(plan->beside_bytes == 0);
  auto three = chosen;
  three.flights = 3;
  three.beside_rows_max = 16;
  const auto beside = gpu::linked().plan_memory(file, three);
  CHECK(beside->workspace_bytes == plan->workspace_bytes);
  auto few = chosen;
  few.rows_max = 16;
  CHECK(beside->beside_bytes == 2 * gpu::linked().plan_memory(file, few)->workspace_bytes);
  CHECK(plan->recording_bytes > 0);
  CHECK(beside->total_bytes() - beside->recording_bytes ==
        plan->total_bytes() - plan->recording_bytes + beside->beside_bytes);
  three.beside_rows_max = 1000;  // no more than the first
  CHECK(gpu::linked().plan_memory(file, three)->beside_bytes == 2 * plan->workspace_bytes);
  chosen.kv = gpu::kv_form::int8;  // a byte a value and 32 scales a head
  CHECK(gpu::linked().plan_memory(file, chosen)->kv_page_bytes == 2 * (32 * 2 * 16 + 64) * 2);
  chosen.kv_bytes = 2u << 30;
  const auto refused = gpu::linked().prepare_weights(file, chosen, {});
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == errc::exhausted);
}

}  // namespace
}  // namespace foretoken
