// SPDX-License-Identifier: Apache-2.0
#pragma once
// What the benchmarks of whole steps share: which model, which flags, which batch.

#include <memory>
#include <string>

#include "cpu/backend.hpp"
#include "model/micro_batch.hpp"
#include "model/ops.hpp"

namespace foretoken::bench {

// Without --model: $FORETOKEN_MODEL, else the default cache; with --smoke a tiny model of the
// tests.
struct step_settings {
  std::string model;
  cpu::options chosen;
  bool smoke = false;
};

// [--model PATH] [--precision exact|fast] [--threads N] [--isa avx512|avx2|portable] [--smoke].
// False, with the usage on stderr, for anything else.
bool parse_step_flags(int count, char** arguments, step_settings& out);

// Null, with the reason on stderr, when the model or its memory is not there.
std::unique_ptr<model::ops> make_ops(const step_settings& with);

// `count` sequences, each with its own pages, of `rows` tokens at `position`; the last row of each
// samples greedily.
model::micro_batch batch_of(int count, int position, int rows, int vocabulary);
// Computes the first `context` positions of those sequences. False, with the reason on stderr.
bool fill_context(model::ops& ops, int count, int context);
bool run_step(model::ops& ops, const model::micro_batch& batch);

}  // namespace foretoken::bench
