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

void staging::set_flights(int count, int rows_max) noexcept {
  flights_max_ = std::max(count, 1);
  rows_max_ = rows_max;
}

// A step began at `now`: when the next one is due.
void staging::look_ahead(time_point now) {
  due_.reset();
  could_plan_ = now;
  int rows = 0;
  std::optional<time_point> first;  // of those that run, nearly done
  for (std::size_t i = 0; i < flights_.size(); ++i) {
    rows += flights_[i].rows;
    if (static_cast<int>(i) >= flights_max_) continue;
    const estimate& usual = took(flights_[i].rows);
    if (!usual.known()) return;
    const auto end = after(flights_[i].begun, usual.low());
    if (!first || end < *first) first = end;
  }
  if (flights_max_ > 1 && rows <= rows_max_) return;
  if (!first) return;
  const auto due = after(*first, reaction_.known() ? -reaction_.high() : 0);
  if (due <= now) return;
  due_ = could_plan_ = due;
}

void staging::sent(std::uint64_t step, int rows, time_point waited_since, time_point now) {
  // What it took from the moment at which there was somebody to plan and the time to plan him.
  reaction_.observe(std::max(seconds(std::max(could_plan_, waited_since), now), 0.0));
  flights_.push_back({step, rows, now, now});
  if (static_cast<int>(flights_.size()) <= flights_max_) look_ahead(now);
}

void staging::nobody(time_point now) noexcept {
  could_plan_ = std::max(could_plan_, now);
}

void staging::ended(std::uint64_t step, time_point at) {
  const auto found = std::find_if(flights_.begin(), flights_.end(),
                                  [&](const flight& each) { return each.step == step; });
  FORETOKEN_ASSERT(found != flights_.end());
  took(found->rows).observe(std::max(seconds(found->begun, at), 0.0));
  flights_.erase(found);
  const auto running = static_cast<std::size_t>(flights_max_);
  if (flights_.size() >= running) {  // the next of them begins
    flight& next = flights_[running - 1];
    next.begun = std::max(at, next.sent);
    look_ahead(next.begun);
  } else if (flights_max_ > 1 && !flights_.empty()) {
    look_ahead(at);
  } else {
    due_.reset();
    could_plan_ = std::min(could_plan_, at);
  }
}

void staging::lost() {
  flights_.clear();
  due_.reset();
}

}  // namespace foretoken::scheduler
