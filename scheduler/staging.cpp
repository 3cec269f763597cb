// SPDX-License-Identifier: Apache-2.0
#include "scheduler/staging.hpp"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/assert.hpp"

namespace foretoken::scheduler {
namespace {

// What 1 in 20 goes beyond, if it is spread normally: a mean deviation is 0.8 standard deviations.
constexpr double deviations = 2;

double seconds(time_point from, time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

time_point after(time_point from, double seconds) {
  return from +
         std::chrono::duration_cast<time_point::duration>(std::chrono::duration<double>(seconds));
}

}  // namespace

void estimate::observe(double value) noexcept {
  if (!seen_) {
    seen_ = true;
    mean_ = value;
    deviation_ = value / 2;
    return;
  }
  deviation_ += (std::abs(value - mean_) - deviation_) / 4;
  mean_ += (value - mean_) / 8;
}

double estimate::low() const noexcept {
  return std::max(mean_ - deviations * deviation_, 0.0);
}

double estimate::high() const noexcept {
  return mean_ + deviations * deviation_;
}

int staging::class_of(int rows) noexcept {
  const auto quarters = 4 * static_cast<unsigned>(std::max(rows, 1));
  const int octave = static_cast<int>(std::bit_width(quarters)) - 3;
  const int quarter = static_cast<int>(quarters >> octave) & 3;
  return std::min(4 * octave + quarter, classes - 1);
}

void staging::begins(time_point at) {
  begun_ = at;
  due_.reset();
  could_plan_ = at;
  const estimate& usual = took_[static_cast<std::size_t>(class_of(flights_.front().rows))];
  if (!usual.known()) return;
  const double wait = usual.low() - (reaction_.known() ? reaction_.high() : 0);
  if (wait <= 0) return;
  due_ = could_plan_ = after(at, wait);
}

void staging::sent(int rows, time_point waited_since, time_point now) {
  flights_.push_back({rows, now});
  // What it took from the moment at which there was somebody to plan and the time to plan him.
  reaction_.observe(std::max(seconds(std::max(could_plan_, waited_since), now), 0.0));
  if (flights_.size() == 1) begins(now);
}

void staging::nobody(time_point now) noexcept {
  could_plan_ = std::max(could_plan_, now);
}

void staging::ended(time_point at) {
  FORETOKEN_ASSERT(!flights_.empty());
  const flight done = flights_.front();
  flights_.pop_front();
  took_[static_cast<std::size_t>(class_of(done.rows))].observe(std::max(seconds(begun_, at), 0.0));
  if (flights_.empty()) {
    due_.reset();
    could_plan_ = std::min(could_plan_, at);
    return;
  }
  begins(std::max(at, flights_.front().sent));
}

void staging::lost() {
  flights_.clear();
  due_.reset();
}

}  // namespace foretoken::scheduler
