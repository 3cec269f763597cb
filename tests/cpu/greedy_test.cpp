// SPDX-License-Identifier: Apache-2.0
// Greedy rows find their token without logits: it is the full pass's, on made-up models.
#include <limits>

#include "tests/cpu/made_model.hpp"

namespace foretoken {
namespace {

using test::device;
using test::made_model;
using test::pages_from;
using test::stored;

std::vector<token> greedy_tokens(device& here, const model::micro_batch& batch) {
  auto out = model::forward(here.ops(), batch);
  REQUIRE(out);
  std::vector<token> ids;
  for (const auto& slice : out->slices) ids.push_back(slice.next.non_finite ? -2 : slice.next.id);
  return ids;
}

// Nine sequences that sample greedily, each at its end.
model::micro_batch greedy_batch(made_model& file) {
  model::micro_batch batch;
  for (int s = 0; s < 9; ++s) {
    const auto text = file.tokens(3 + s);
    batch.slices.push_back(device::slice(text, pages_from(s, 1), 0, text.size()));
    batch.slices.back().score_all = false;
    batch.slices.back().sample_last = true;
    auto greedy = std::make_shared<model::sampling_parameters>();
    greedy->temperature = 0;
    batch.slices.back().sampling = greedy;
  }
  return batch;
}

// Rows alone read the head's draft, and nine together its 8-bit form where it has one.
void check_greedy(const model::model_file& file,
                  const model::micro_batch& batch,
                  const cpu::options& chosen,
                  bool broken) {
  device here(file, chosen);
  device whole(file, chosen);  // a probe wants all logits
  static_cast<cpu::step&>(here.ops()).probe_logits(nullptr, nullptr);
  const auto together = greedy_tokens(here, batch);
  for (std::size_t s = 0; s < together.size(); ++s) {
    const auto alone = greedy_tokens(here, test::batch_of({batch.slices[s]}));
    CHECK(alone.front() == together[s]);
    CHECK((alone.front() == -2) == broken);
  }
  CHECK(greedy_tokens(whole, batch) == together);
}

TEST_CASE("greedy: rows get the token of the full pass, alone and together") {
  auto shape = test::small_shape();
  shape.vocabulary = 3001;
  for (const cpu::isa path : test::paths_here()) {
    for (const auto precision : {cpu::numerics::exact, cpu::numerics::fast}) {
      for (const stored how : {stored::q8_0, stored::floats}) {
        for (const float factor : {1.0f, 1e-3f, std::numeric_limits<float>::infinity()}) {
          CAPTURE(cpu::isa_name(path));
          CAPTURE(factor);
          made_model file(shape, how);
          made_model::scale(file.tensors.final_norm, factor);
          for (int round = 0; round < 5; ++round) {
            check_greedy(file, greedy_batch(file), test::small_options(path, precision, 2),
                         std::isinf(factor));
          }
        }
      }
    }
  }
}

TEST_CASE("greedy: a few inputs of the head that outweigh all others change no greedy token") {
  auto shape = test::small_shape();
  shape.vocabulary = 3001;
  for (const cpu::isa path : test::paths_here()) {
    for (const auto precision : {cpu::numerics::exact, cpu::numerics::fast}) {
      made_model file(shape, stored::q8_0);
      auto one = file.tensors.final_norm;
      for (const std::size_t column : {3u, 17u, 40u}) {
        one.bytes = file.tensors.final_norm.bytes.subspan(column * sizeof(float), sizeof(float));
        made_model::scale(one, 40);
      }
      for (int round = 0; round < 5; ++round) {
        check_greedy(file, greedy_batch(file), test::small_options(path, precision, 2), false);
      }
    }
  }
}

}  // namespace
}  // namespace foretoken
