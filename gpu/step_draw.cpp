// SPDX-License-Identifier: Apache-2.0
// Tokens drawn on the device: what each row asks for, and the rows that come back to the host.
#include <algorithm>

#include "gpu/step.hpp"
#include "model/philox.hpp"

namespace foretoken::gpu {
namespace {

std::size_t size_of(int n) {
  return static_cast<std::size_t>(n);
}

}  // namespace

// How the device draws for a task, its adjustments in `to`. One that it cannot draw for is left to
// the host beforehand, as the device leaves others.
draw_parameters step::request_of(const head_task& task, draw_request& to) {
  if (task.on_host) return {};
  const model::slice& owner = batch_->slices[size_of(task.slice)];
  const model::sampling_parameters& p = *owner.sampling;
  const double uniform = model::uniform(p.seed, owner.generated_count);
  draw_parameters out{uniform, p.temperature, p.top_p, p.min_p, p.top_k, 0, 1};
  if (!model::adjusts(p)) return out;
  const bool once = model::collect_adjustments(p, model::prompt_of(owner), owner.generated,
                                               shape().vocabulary, adjustments_);
  if (!once || adjustments_.size() > size_of(draw_adjustments)) return {};
  std::ranges::copy(adjustments_, to.adjustments);
  out.adjusted = static_cast<std::int32_t>(adjustments_.size());
  return out;
}

// The device reads them where they stand; rows that pad the bucket draw nothing.
void step::fill_requests(std::span<const head_task> tasks, int count) {
  for (std::size_t i = 0; i < size_of(count); ++i) {
    requests_[i].how = i < tasks.size() ? request_of(tasks[i], requests_[i]) : draw_parameters{};
    drawn_[i] = {drawn_by_host, 0};
  }
}

void step::queue_draw(int count) {
  draw_arguments given;
  given.rows = count;
  given.logits = logits_;
  given.vocabulary = shape().vocabulary;
  given.stride = sizes_.logits;
  given.requests = requests_;
  given.drawn = drawn_;
  given.arrived = rows_arrived_in(scratch_);
  if (!split_) given.end = {device_.number, done_};  // one block, and the last of the step
  queue([this, given] { return launch_draw(on_, given); });
}

// Where tokens are drawn the digest is wanted for log-probabilities only.
void step::queue_choice(int first, int count) {
  if (bucket_.top > 0 || !bucket_.draws) queue_digest(first, count);
  if (!bucket_.draws) return;
  const auto rest = std::span<const head_task>(tasks_).subspan(size_of(first));
  fill_requests(rest, count);
  queue_draw(count);
}

// Rows that the device left to the host.
void step::take_back(std::span<head_task> tasks) const {
  if (!bucket_.draws) return;
  for (std::size_t i = 0; i < tasks.size(); ++i) tasks[i].on_host |= drawn_[i].id == drawn_by_host;
}

}  // namespace foretoken::gpu
