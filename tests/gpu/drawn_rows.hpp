// SPDX-License-Identifier: Apache-2.0
#pragma once
// Rows that draw their tokens, through nothing but the ops contract: in steps of several sizes,
// twice, each row alone, and left to the host.

#include <vector>

#include <nlohmann/json.hpp>

#include "model/ops.hpp"

namespace foretoken::test {

bool same_bits(const model::sampled& a, const model::sampled& b);

// Sequences are parts of `text`, 150 of them in pages of their own. For each size of a step the
// number of rows that differ; "holds" when none does.
nlohmann::json check_draws(model::ops& ops, const std::vector<token>& text);

}  // namespace foretoken::test
