// SPDX-License-Identifier: Apache-2.0
#pragma once
// When a dead executor is started again, and when its deaths are more than bad luck. Plain object:
// time is an argument.

#include <chrono>

namespace foretoken::actors {

class restart_policy {
 public:
  using time_point = std::chrono::steady_clock::time_point;
  // Deaths in a row after which an operator must hear of it: with the default back-off they take
  // 150 ms, which no passing shortage of anything survives.
  static constexpr int alarm_deaths = 5;
  // Then again every so many, which is once a minute at the longest back-off.
  static constexpr int reminder_deaths = 60;

  restart_policy(std::chrono::milliseconds first, std::chrono::milliseconds longest) noexcept
      : first_(first), longest_(longest), next_(first) {}

  struct verdict {
    std::chrono::milliseconds wait{};
    int deaths = 0;      // in a row
    bool alarm = false;  // log an error now
  };
  // The wait doubles with each death in a row; a row ends when an executor was up for more than a
  // second. A kill by command is no death: the successor comes after the first wait.
  verdict died(time_point now, bool ordered) noexcept;
  void came_up(time_point now) noexcept;
  int deaths() const noexcept { return deaths_; }

 private:
  std::chrono::milliseconds first_, longest_, next_;
  time_point up_since_{};
  bool up_ = false;
  int deaths_ = 0;
};

}  // namespace foretoken::actors
