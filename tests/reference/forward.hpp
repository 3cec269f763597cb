// SPDX-License-Identifier: Apache-2.0
#pragma once
// The forward pass in scalar float64, written from the formulas. It never calls cpu/.

#include <vector>

#include "base/ids.hpp"
#include "model/model_file.hpp"

namespace foretoken::reference {

// Logits of every position: [tokens][vocabulary].
std::vector<std::vector<double>> forward(const model::model_file& file,
                                         const std::vector<token>& tokens);

}  // namespace foretoken::reference
