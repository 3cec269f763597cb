// SPDX-License-Identifier: Apache-2.0
#pragma once
// The forward pass in scalar float64, written from the formulas. It never calls cpu/.

#include <functional>
#include <vector>

#include "base/ids.hpp"
#include "model/model_file.hpp"

namespace foretoken::reference {

// What storing does to the keys, or the values, of one position and head.
using rounding = std::function<void(std::vector<double>&)>;

// Logits of every position: [tokens][vocabulary].
std::vector<std::vector<double>> forward(const model::model_file& file,
                                         const std::vector<token>& tokens,
                                         const rounding& stored = {});

}  // namespace foretoken::reference
