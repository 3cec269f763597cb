// SPDX-License-Identifier: Apache-2.0
#pragma once
// How many threads of a pool work. A phase ends with its slowest ticket, so where another program
// has a thread's core half of the time, all threads wait half of the time: without that thread,
// which leaves the core to the other program, the rest are faster. Time and the threads' times are
// arguments; no thread of its own.
//
// 1. Narrower by one when a thread was kept from its core for a larger part of a window of work
//    than the pool loses with one thread less.
// 2. One thread more is tried after a while; it stays unless 1 says no. Each time it says so soon,
//    the while is twice as long, within bounds: a busy machine costs few tries, a quiet one is
//    back to full width in a moment.

#include <chrono>
#include <span>
#include <vector>

#include "cpu/thread_times.hpp"

namespace foretoken::cpu {

class pool_width {
 public:
  using clock = std::chrono::steady_clock;

  // REQUIRES threads of at least 1.
  explicit pool_width(int threads);
  int threads() const noexcept { return width_; }  // that work now: the first so many

  // When to look again: sooner tells nothing.
  bool due(clock::time_point now) const noexcept { return now >= look_at_; }
  // `times`: of every thread of the pool, in its order, those that do not work included; they only
  // grow. True when the width has changed.
  bool look(clock::time_point now, std::span<const thread_times> times);
  // What was before does not count; for when a thread of the pool is another than it was.
  void start_window(clock::time_point now, std::span<const thread_times> times) noexcept;

 private:
  struct window {
    std::chrono::nanoseconds worked{0};  // or wanted to: of the thread that did most
    std::chrono::nanoseconds waited{0};  // of the thread that waited most
  };
  window since_start(std::span<const thread_times> times) const noexcept;
  void narrow(clock::time_point now) noexcept;

  int all_;
  int width_;
  std::vector<thread_times> start_;  // of the window
  clock::time_point look_at_{};
  clock::time_point widen_at_{};
  clock::time_point widened_at_{};
  clock::duration patience_{};  // from narrower to the next try
};

}  // namespace foretoken::cpu
