// SPDX-License-Identifier: Apache-2.0
// Prompts long enough for large tiles of attention.
#include <algorithm>

#include "tests/gpu/device.hpp"

namespace foretoken {
namespace {

using test::device;
using test::gpu_device;
using test::made_model;
using test::pages_from;

TEST_CASE("gpu step: long prompts have the same bits in any chunking, beside decode rows too") {
  model::hyperparameters shape = test::small_shape();
  shape.heads = 3;
  shape.kv_heads = 1;
  shape.head_dim = 64;
  shape.layers = 1;
  shape.attention = {{0, 0}};
  shape.ropes.front().frequency.resize(32, 0.01f);  // else heads are padded
  made_model file(shape);
  auto chosen = test::gpu_options();
  chosen.rows_max = 300;
  gpu_device here(file, chosen);
  const auto text = file.tokens(290);
  const auto small = here.read(text, pages_from(0, 19), 8);
  CHECK(here.ops().large_columns() == 0);
  CHECK(here.read(text, pages_from(20, 19), 290) == small);
  CHECK(here.ops().large_columns() > 0);
  CHECK(here.read(text, pages_from(20, 19), 170) == small);
  // The rest of one prompt, all of another, one row.
  model::micro_batch batch;
  batch.slices = {device::slice(text, pages_from(0, 19), 150, 120),
                  device::slice(text, pages_from(40, 19), 0, 100),
                  device::slice(text, pages_from(20, 19), 280, 1)};
  const auto rows = here.run(batch);
  CHECK(here.ops().large_columns() > 0);
  CHECK(std::equal(rows.begin(), rows.begin() + 120, small.begin() + 150));
  CHECK(std::equal(rows.begin() + 120, rows.begin() + 220, small.begin()));
  CHECK(rows.back() == small[280]);
  // As many rows as the whole prompt and as long a sequence, by turns.
  model::micro_batch others;
  for (int s = 0; s < 28; ++s) {
    others.slices.push_back(device::slice(text, pages_from(60 + s, 1), 0, 10));
  }
  others.slices.push_back(device::slice(text, pages_from(20, 19), 280, 10));
  for (int twice = 0; twice < 2; ++twice) {
    const auto mixed = here.run(others);
    CHECK(std::equal(mixed.begin() + 280, mixed.end(), small.begin() + 280));
    CHECK(here.read(text, pages_from(20, 19), 290) == small);
    CHECK(here.ops().large_columns() > 0);
  }
}

}  // namespace
}  // namespace foretoken
