// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

namespace foretoken::reference {

// The larger of the worst error so far and one more. A NaN is infinitely wrong; std::max would pass
// over it.
inline double worse(double worst, double error) noexcept {
  return std::isnan(error) ? std::numeric_limits<double>::infinity() : std::max(worst, error);
}

}  // namespace foretoken::reference
