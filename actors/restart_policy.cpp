// SPDX-License-Identifier: Apache-2.0
#include "actors/restart_policy.hpp"

#include <algorithm>

namespace foretoken::actors {

using namespace std::chrono_literals;

restart_policy::verdict restart_policy::died(time_point now, bool ordered) noexcept {
  const bool quiet = up_ && now - up_since_ > 1s;
  up_ = false;
  if (quiet) {
    next_ = first_;
    deaths_ = 0;
  }
  if (ordered) return {first_, deaths_, false};
  ++deaths_;
  const verdict out{next_, deaths_,
                    deaths_ == alarm_deaths || (deaths_ > 0 && deaths_ % reminder_deaths == 0)};
  next_ = std::min(next_ * 2, longest_);
  return out;
}

void restart_policy::came_up(time_point now) noexcept {
  up_ = true;
  up_since_ = now;
}

}  // namespace foretoken::actors
