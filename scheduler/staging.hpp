// SPDX-License-Identifier: Apache-2.0
#pragma once
// When the micro-batch behind the running one is planned: late, so that whoever arrives while a
// step runs joins the next one and not the one after it, but so early that the device need not
// wait. A plain object: time is an argument.
//
//   begin                                    due               end (predicted)
//     |<------------- a step of that many rows ----------------->|
//                                           |<--- reaction ----->|
//
// Durations are learned for each class of rows, the reaction (a timer, planning, a mailbox) from
// what it took before; both as mean and mean deviation, so that what varies is met earlier. A step
// of a class that was not seen yet is staged behind at once.

#include <array>
#include <chrono>
#include <cstdint>
#include <deque>
#include <optional>

namespace foretoken::scheduler {

using time_point = std::chrono::steady_clock::time_point;

// Mean and mean deviation of what was seen lately: the weights of a round-trip timer.
class estimate {
 public:
  void observe(double value) noexcept;
  bool known() const noexcept { return seen_; }
  double low() const noexcept;   // seldom less; not below 0
  double high() const noexcept;  // seldom more

 private:
  double mean_ = 0, deviation_ = 0;
  bool seen_ = false;
};

class staging {
 public:
  // `rows_max`: few rows.
  void set_flights(int count, int rows_max) noexcept;
  // A micro-batch of `rows` rows left for the executor; somebody in it had waited since then.
  void sent(std::uint64_t step, int rows, time_point waited_since, time_point now);
  // Nobody could be planned now, for whatever reason.
  void nobody(time_point now) noexcept;
  // REQUIRES the oldest one in flight, or any of those that run beside each other.
  void ended(std::uint64_t step, time_point at);
  // Those in flight are void.
  void lost();
  // From when on the next one may be planned: nothing when it may at once.
  std::optional<time_point> due() const noexcept { return due_; }

 private:
  struct flight {
    std::uint64_t step = 0;
    int rows = 0;
    time_point sent{};
    time_point begun{};  // of the first flights_max_
  };
  // Four classes an octave of rows: steps of one class differ by a fifth at most.
  static constexpr int classes = 4 * 20;
  static int class_of(int rows) noexcept;
  estimate& took(int rows) { return took_[static_cast<std::size_t>(class_of(rows))]; }
  void look_ahead(time_point now);

  int flights_max_ = 1, rows_max_ = 0;
  std::deque<flight> flights_;  // the first flights_max_ run
  time_point could_plan_{};     // since then the next one was to be planned, were there somebody
  std::optional<time_point> due_;
  std::array<estimate, classes> took_;  // seconds
  estimate reaction_;                   // seconds
};

}  // namespace foretoken::scheduler
