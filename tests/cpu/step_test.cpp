// SPDX-License-Identifier: Apache-2.0
// The fused operations on made-up models: against float64, and against themselves bit by bit.
#include <algorithm>
#include <numeric>

#include "base/counters.hpp"
#include "cpu/weights.hpp"
#include "tests/cpu/made_model.hpp"
#include "tests/reference/forward.hpp"
#include "tests/reference/worst.hpp"

namespace foretoken {
namespace {

using test::device;
using test::made_model;
using test::pages_from;
using test::stored;

model::hyperparameters variant(int index) {
  model::hyperparameters shape = test::small_shape();
  switch (index) {
    case 0: shape.rope_neighbours = true; break;
    case 1:  // window, caps, gate and up not in turns
      shape.attention = {{8, 0}, {20, 0}};
      shape.attention_softcap = 5;
      shape.final_softcap = 9;
      shape.ffn = 72;
      break;
    case 2:
      shape.post_norms = shape.qk_norm = true;
      shape.activation = model::activation_kind::gelu_tanh_gate;
      shape.embedding_scale = 8;
      shape.attention = {{16, 0}, {0, 0}};
      break;
    default:
      shape.norm = model::norm_kind::layer;
      shape.activation = model::activation_kind::gelu_tanh;
      shape.learned_positions = true;
      shape.ropes.clear();
      shape.attention = {{0, -1}, {0, -1}};
  }
  return shape;
}
constexpr int variants = 4;

double largest(const std::vector<double>& values) {
  double most = 0;
  for (const double value : values) most = std::max(most, std::abs(value));
  return most;
}

TEST_CASE("step: logits are those of the float64 formulas") {
  for (const cpu::isa path : test::paths_here()) {
    for (int index = 0; index < variants; ++index) {
      CAPTURE(cpu::isa_name(path));
      CAPTURE(index);
      made_model file(variant(index), index % 2 == 0 ? stored::q8_0 : stored::floats);
      const auto text = file.tokens(150);  // more than one chunk of attention
      const auto expected = reference::forward(file, text);
      for (const auto precision :
           {cpu::numerics::float32, cpu::numerics::exact, cpu::numerics::fast}) {
        device here(file, test::small_options(path, precision));
        const auto got = here.read(text, pages_from(0, 10), 150);
        REQUIRE(got.size() == expected.size());
        const double allowed = precision == cpu::numerics::float32 ? 1e-4
                               : precision == cpu::numerics::exact ? 5e-3
                                                                   : 0.15;
        double worst = 0;
        for (std::size_t t = 0; t < got.size(); ++t) {
          for (std::size_t n = 0; n < got[t].size(); ++n) {
            const double away = std::abs(static_cast<double>(got[t][n]) - expected[t][n]);
            worst = reference::worse(worst, away / largest(expected[t]));
          }
        }
        CHECK(worst < allowed);
      }
    }
  }
}

constexpr cpu::kv_type kv_types[] = {cpu::kv_type::f16, cpu::kv_type::bf16, cpu::kv_type::int8};

// What a type keeps of one head's keys or values.
void keep_in(cpu::kv_type type, std::vector<double>& head) {
  double most = 0;
  for (const double value : head) most = std::max(most, std::abs(value));
  for (double& value : head) {
    if (type == cpu::kv_type::int8) {
      value = most == 0 ? 0 : std::nearbyint(value / most * 127) * most / 127;
    } else {
      const auto narrow = static_cast<float>(value);
      value = static_cast<double>(type == cpu::kv_type::bf16 ? bf16_to_float(float_to_bf16(narrow))
                                                             : f16_to_float(float_to_f16(narrow)));
    }
  }
}

cpu::options kv_options(cpu::isa path, cpu::kv_type type, int threads = 1) {
  auto chosen = test::small_options(path, cpu::numerics::exact, threads);
  chosen.kv = type;
  return chosen;
}

TEST_CASE("step: keys and values of every type give the formulas' logits over what they keep") {
  for (int index = 0; index < variants; ++index) {
    made_model file(variant(index), stored::q8_0);
    const auto text = file.tokens(150);
    for (const cpu::kv_type type : kv_types) {
      const auto expected = reference::forward(
          file, text, [type](std::vector<double>& head) { keep_in(type, head); });
      for (const cpu::isa path : test::paths_here()) {
        CAPTURE(cpu::isa_name(path));
        CAPTURE(index);
        CAPTURE(static_cast<int>(type));
        auto chosen = kv_options(path, type);
        chosen.precision = cpu::numerics::float32;  // so that nothing else is rounded
        device here(file, chosen);
        const auto got = here.read(text, pages_from(0, 10), 150);
        double worst = 0;
        for (std::size_t t = 0; t < got.size(); ++t) {
          for (std::size_t n = 0; n < got[t].size(); ++n) {
            const double away = std::abs(static_cast<double>(got[t][n]) - expected[t][n]);
            worst = reference::worse(worst, away / largest(expected[t]));
          }
        }
        // Where float and double round to neighbours, one value is a step of its type away.
        CHECK(worst < 2e-3);
      }
    }
  }
}

TEST_CASE("step: with keys and values of every type a row's bits are its own") {
  for (const cpu::isa path : test::paths_here()) {
    for (int index = 0; index < variants; ++index) {
      for (const cpu::kv_type type : kv_types) {
        CAPTURE(cpu::isa_name(path));
        CAPTURE(index);
        CAPTURE(static_cast<int>(type));
        made_model file(variant(index), stored::q8_0);
        const auto text = file.tokens(141);
        device here(file, kv_options(path, type));
        const auto whole = here.read(text, pages_from(0, 9), 256);
        CHECK(here.read(text, pages_from(10, 9), 1) == whole);
        CHECK(here.read(text, pages_from(3, 9), 7) == whole);
        here.again(kv_options(path, type, 2));
        CHECK(here.read(text, pages_from(20, 9), 50) == whole);
        model::micro_batch batch;  // beside a stranger, the last row on a copied page
        const auto other = file.tokens(40);
        batch.copies = {{page_id{28}, page_id{40}, 12}};
        auto pages = pages_from(20, 9);
        pages[8] = page_id{40};
        batch.slices = {device::slice(other, pages_from(41, 3), 0, 40),
                        device::slice(text, pages, 140, 1)};
        CHECK(here.run(batch).back() == whole[140]);
      }
    }
  }
}

TEST_CASE("step: a row's bits do not depend on chunks, threads, neighbours or pages") {
  for (const cpu::isa path : test::paths_here()) {
    for (int index = 0; index < variants; ++index) {
      for (const auto precision :
           {cpu::numerics::exact, cpu::numerics::fast, cpu::numerics::float32}) {
        CAPTURE(cpu::isa_name(path));
        CAPTURE(index);
        made_model file(variant(index),
                        precision == cpu::numerics::fast ? stored::q8_0 : stored::floats);
        const auto text = file.tokens(141);
        device here(file, test::small_options(path, precision));
        const auto whole = here.read(text, pages_from(0, 9), 256);
        CHECK(here.read(text, pages_from(10, 9), 1) == whole);
        CHECK(here.read(text, pages_from(3, 9), 7) == whole);
        auto shuffled = pages_from(20, 9);
        std::reverse(shuffled.begin(), shuffled.end());
        std::swap(shuffled[1], shuffled[5]);
        CHECK(here.read(text, shuffled, 50) == whole);
        here.again(test::small_options(path, precision, 2));
        CHECK(here.read(text, pages_from(0, 9), 256) == whole);
        CHECK(here.read(text, pages_from(0, 9), 3) == whole);
      }
    }
  }
}

TEST_CASE("step: seven sequences in one batch have the bits they have alone") {
  for (const cpu::isa path : test::paths_here()) {
    for (int index = 0; index < variants; ++index) {
      CAPTURE(cpu::isa_name(path));
      CAPTURE(index);
      made_model file(variant(index));
      device here(file, test::small_options(path, cpu::numerics::exact, 2));
      test::row_logits alone;
      model::micro_batch batch;
      for (int s = 0; s < 7; ++s) {
        const auto text = file.tokens(20 + 5 * s);
        const auto pages = pages_from(5 * s, 5);
        const std::size_t before = text.size() - (s % 2 == 0 ? 1 : 9);  // decode and prefill mixed
        here.run(test::batch_of({device::slice(text, pages, 0, before)}));
        batch.slices.push_back(device::slice(text, pages, before, text.size()));
        const auto rows = here.run(test::batch_of({batch.slices.back()}));
        alone.insert(alone.end(), rows.begin(), rows.end());
      }
      CHECK(here.run(batch) == alone);
    }
  }
}

TEST_CASE("step: a copied page continues like the original and leaves it alone") {
  for (const cpu::isa path : test::paths_here()) {
    for (const auto precision : {cpu::numerics::exact, cpu::numerics::float32}) {
      made_model file(variant(2));
      const auto text = file.tokens(30);
      device here(file, test::small_options(path, precision));
      const auto whole = here.read(text, pages_from(0, 2), 256);
      model::micro_batch batch;
      batch.copies = {{page_id{1}, page_id{5}, 6}};
      batch.slices = {device::slice(text, {page_id{0}, page_id{5}}, 22, 8)};
      auto other = text;
      other[22] = (text[22] + 1) % file.shape.vocabulary;
      const auto rows = here.run(batch);
      CHECK(std::equal(rows.begin(), rows.end(), whole.begin() + 22));
      batch.slices = {device::slice(other, {page_id{0}, page_id{5}}, 22, 8)};
      CHECK(here.run(batch).front() != whole[22]);
      const auto last = here.run(test::batch_of({device::slice(text, pages_from(0, 2), 29, 1)}));
      CHECK(last.front() == whole[29]);
    }
  }
}

TEST_CASE("step: what lies outside the window or after the end is never read") {
  made_model file(variant(1));  // two layers, windows 8 and 20: 26 positions back in all
  const auto text = file.tokens(100);
  for (const cpu::isa path : test::paths_here()) {
    device here(file, test::small_options(path, cpu::numerics::exact));
    auto other = text;
    for (int i = 0; i < 60; ++i) other[static_cast<std::size_t>(i)] = (i * 7) % 130;
    const auto a = here.read(text, pages_from(0, 7), 256);
    const auto b = here.read(other, pages_from(10, 7), 256);
    for (std::size_t t = 60 + 26; t < 100; ++t) CHECK(a[t] == b[t]);
    CHECK(a[60] != b[60]);
    // A page full of another sequence's values after the end changes nothing.
    CHECK(here.read(std::vector<token>(text.begin(), text.begin() + 83), pages_from(10, 7), 256)
              .back() == a[82]);
  }
}

TEST_CASE("step: keys beyond the f16 range are clamped and counted") {
  made_model file(variant(0));
  made_model::scale(file.tensors.layers[0].v, 1e6f);
  const auto text = file.tokens(8);
  for (const cpu::isa path : test::paths_here()) {
    counter saturated;
    auto chosen = test::small_options(path, cpu::numerics::exact);
    chosen.kv_saturated = &saturated;
    device here(file, chosen);
    const auto rows = here.read(text, pages_from(0, 1), 8);
    CHECK(saturated.value() > 0);
    for (const float value : rows.back()) CHECK(std::isfinite(value));
    for (const cpu::kv_type wide : {cpu::kv_type::bf16, cpu::kv_type::int8}) {
      counter none;
      chosen.kv = wide;
      chosen.kv_saturated = &none;
      device far(file, chosen);
      const auto wide_rows = far.read(text, pages_from(0, 1), 8);
      for (const float value : wide_rows.back()) CHECK(std::isfinite(value));
      CHECK(none.value() == 0);
    }
  }
}

TEST_CASE("step: logits that are not finite are reported, not sampled") {
  made_model file(variant(0));
  made_model::scale(file.tensors.final_norm, std::numeric_limits<float>::infinity());
  device here(file, test::small_options(cpu::isa::automatic, cpu::numerics::float32));
  model::slice one = device::slice(file.tokens(3), pages_from(0, 1), 0, 3);
  one.score_all = false;
  one.sample_last = true;
  one.sampling = std::make_shared<model::sampling_parameters>();
  auto out = model::forward(here.ops(), test::batch_of({one}));
  REQUIRE(out);
  CHECK(out->slices[0].next.non_finite);
  CHECK(out->slices[0].next.id == -1);
}

TEST_CASE("step: a batch that breaks the contract is refused by name") {
  made_model file(variant(0));
  device here(file, test::small_options(cpu::isa::automatic, cpu::numerics::exact));
  const auto text = file.tokens(20);
  auto refused = [&](model::slice one) {
    auto out = model::forward(here.ops(), test::batch_of({std::move(one)}));
    return out ? std::string("accepted") : out.error().field;
  };
  model::slice good = device::slice(text, pages_from(0, 2), 0, 20);
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
  bad = good;
  bad.position = 500;
  CHECK(refused(bad) == "slice.tokens");
}

TEST_CASE("plan: parts are counted and the pool is whole pages") {
  made_model file(variant(0));
  auto chosen = test::small_options(cpu::isa::automatic, cpu::numerics::exact);
  const cpu::memory_plan plan = *cpu::plan_memory(file, chosen);
  // keys 24 and values 32 floats of 2 bytes, 16 positions, 2 heads, 2 layers
  CHECK(plan.kv_page_bytes == (24 + 32) * 2 * 16 * 2 * 2);
  CHECK(plan.kv_bytes <= chosen.kv_bytes);
  chosen.kv = cpu::kv_type::int8;
  CHECK(cpu::plan_memory(file, chosen)->kv_page_bytes == ((24 + 32) * 16 + 2 * 16 * 4) * 2 * 2);
  chosen.kv = cpu::kv_type::automatic;
  CHECK(plan.kv_bytes == static_cast<std::uint64_t>(plan.kv_pages) * plan.kv_page_bytes);
  CHECK(plan.weight_bytes > file.tensors.embedding.bytes.size());
  CHECK(plan.workspace_bytes > 0);
  chosen.kv_bytes = 100;
  auto made = cpu::prepare_weights(file, chosen);
  REQUIRE(made);
  auto ops = cpu::make_ops(*made, chosen);
  REQUIRE_FALSE(ops);
  CHECK(ops.error().field == "cache.kv_bytes");
}

// Bytes of all that prepared weights hold.
std::uint64_t bytes_of(const cpu::weights& made) {
  std::uint64_t bytes = 0;
  for (const auto block : cpu::packed_blocks(made)) bytes += block.size();
  const auto add = [&](const std::vector<float>& values) {
    bytes += values.size() * sizeof(float);
  };
  add(made.final_norm);
  add(made.final_norm_bias);
  for (const cpu::layer_weights& layer : made.layers) {
    for (const auto* values :
         {&layer.attention_norm, &layer.attention_norm_bias, &layer.qkv_bias, &layer.q_norm,
          &layer.k_norm, &layer.o_bias, &layer.attention_post_norm, &layer.ffn_norm,
          &layer.ffn_norm_bias, &layer.up_bias, &layer.down_bias, &layer.ffn_post_norm}) {
      add(*values);
    }
  }
  return bytes;
}

void check_planned_weights(const made_model& file) {
  for (const auto precision : {cpu::numerics::float32, cpu::numerics::exact, cpu::numerics::fast}) {
    const auto chosen = test::small_options(cpu::isa::automatic, precision);
    const auto made = cpu::prepare_weights(file, chosen);
    REQUIRE(made);
    CHECK(cpu::plan_memory(file, chosen)->weight_bytes == bytes_of(**made));
  }
}

TEST_CASE("plan: the weights' bytes are those that packing takes") {
  for (int index = 0; index < variants; ++index) {
    CAPTURE(index);
    check_planned_weights(made_model(variant(index), stored::q8_0));
  }
}

TEST_CASE("plan: gate and up of unlike types are counted as they are packed") {
  model::hyperparameters shape = variant(0);
  shape.ffn = 128;  // whole tiles: one below the other, each would keep its type
  made_model file(shape, stored::q8_0);
  const made_model floats(shape, stored::floats);
  for (std::size_t i = 0; i < file.tensors.layers.size(); ++i) {
    file.tensors.layers[i].up = floats.tensors.layers[i].up;
  }
  check_planned_weights(file);
}

TEST_CASE("plan: a path that the processor lacks is refused by name") {
  made_model file(variant(0));
  const auto lacking = static_cast<cpu::isa>(99);  // no processor has it
  const auto plan = cpu::plan_memory(file, test::small_options(lacking, cpu::numerics::exact));
  REQUIRE_FALSE(plan);
  CHECK(plan.error().code == errc::unsupported);
  CHECK(plan.error().field == "cpu.isa");
}

}  // namespace
}  // namespace foretoken
