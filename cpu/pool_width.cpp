// SPDX-License-Identifier: Apache-2.0
#include "cpu/pool_width.hpp"

#include <algorithm>
#include <cstddef>

#include "base/assert.hpp"

namespace foretoken::cpu {
namespace {

using std::chrono::milliseconds;

// Work that is judged at once: several turns of a core between two programs, which are up to 4 ms
// each where the system's clock ticks 250 times a second.
constexpr milliseconds window_work{25};
constexpr milliseconds between_looks{5};
constexpr milliseconds patience_first{100};
constexpr milliseconds patience_most{1000};

// Beside one competitor on two cores (EPYC, 2026-11-30) the two threads waited 37 and 48 % of their
// time and gave 43 % of the quiet rate; one thread waits for nothing and gives 65. On a quiet
// machine they wait 1 or 2 %, in a server with 64 clients on the same two cores up to 30,
// seldom 40.
double bearable_share(int width) noexcept {
  return std::max(0.15, 0.8 / width);
}

}  // namespace

pool_width::pool_width(int threads)
    : all_(threads), width_(threads), start_(static_cast<std::size_t>(threads)) {
  FORETOKEN_ASSERT(threads >= 1);
}

void pool_width::start_window(clock::time_point now, std::span<const thread_times> times) noexcept {
  look_at_ = now + between_looks;
  FORETOKEN_ASSERT(times.size() == start_.size());
  std::copy(times.begin(), times.end(), start_.begin());
}

pool_width::window pool_width::since_start(std::span<const thread_times> times) const noexcept {
  FORETOKEN_ASSERT(times.size() == start_.size());
  window sum;
  for (std::size_t i = 0; i < times.size(); ++i) {
    const auto waited = times[i].waited - start_[i].waited;
    sum.waited = std::max(sum.waited, waited);
    sum.worked = std::max(sum.worked, times[i].ran - start_[i].ran + waited);
  }
  return sum;
}

void pool_width::narrow(clock::time_point now) noexcept {
  const bool soon = now - widened_at_ < patience_;
  patience_ = soon ? std::min<clock::duration>(2 * patience_, patience_most) : patience_first;
  widen_at_ = now + patience_;
  --width_;
}

bool pool_width::look(clock::time_point now, std::span<const thread_times> times) {
  look_at_ = now + between_looks;
  const window seen = since_start(times);
  if (seen.worked < window_work) return false;
  start_window(now, times);
  if (width_ > 1 && seen.waited > bearable_share(width_) * seen.worked) {
    narrow(now);
    return true;
  }
  if (width_ == all_ || now < widen_at_) return false;
  ++width_;
  widened_at_ = now;
  return true;
}

}  // namespace foretoken::cpu
