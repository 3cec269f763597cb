// SPDX-License-Identifier: Apache-2.0
// The end of a step: logits of the rows that want them, their digest, and the choice.
#include <algorithm>
#include <utility>

#include "base/counters.hpp"
#include "gpu/step.hpp"
#include "model/sampling.hpp"

namespace foretoken::gpu {
namespace {

std::size_t size_of(int n) {
  return static_cast<std::size_t>(n);
}

constexpr std::uint64_t saturation_period = 64;  // steps between looks at the counter

drawn_token best_of(const logits_digest& digest) {
  return digest.count > 0 ? drawn_token{digest.id[0], digest.logit[0]}
                          : drawn_token{drawn_broken, 0};
}

}  // namespace

// A device that failed to launch or to run may have written anything anywhere.
status step::failed(error why) {
  batch_ = nullptr;
  left_ = false;
  if (why.code == errc::device && !runtime::lost()) return runtime::lose(std::move(why.message));
  return why;
}

void step::queue_logits(int first, int count) {
  head_arguments given;
  given.rows = count;
  given.which = device_.which + first;
  given.rows_of_x = bucket_.rows;
  given.work = work_;
  given.norm = weights_->final_norm;
  given.matrix = weights_->head;
  given.softcap = shape().final_softcap;
  if (wants_logits()) {
    given.logits = logits_;
  } else {
    given.best = best_logits_in(scratch_, shape().vocabulary);
  }
  queue([this, given] { return launch_head(on_, given); });
}

void step::queue_digest(int first, int count) {
  digest_arguments digest;
  digest.rows = count;
  digest.logits = logits_;
  digest.vocabulary = shape().vocabulary;
  digest.stride = sizes_.logits;
  digest.top = std::min(bucket_.top, shape().vocabulary);
  digest.scratch = scratch_;
  digest.digests = digests_ + first;
  const bool last = first + count == bucket_.head_rows;
  if (last && !bucket_.draws) digest.end = {device_.number, done_};
  queue([this, digest] { return launch_digest(on_, digest); });
}

// As many rows at once as there is memory for; the device goes from one block to the next by
// itself.
void step::queue_head() {
  const int block = wants_logits() ? sizes_.head_rows : sizes_.best_rows;
  for (int first = 0; first < bucket_.head_rows; first += block) {
    const int count = std::min(block, bucket_.head_rows - first);
    if (!on_lanes() || !own_head()) queue_logits(first, count);
    queue_choice(first, count);
  }
}

// The end of a step without a digest, which says it otherwise.
void step::queue_announce() {
  const announce_arguments given{device_.number, done_};
  queue([this, given] { return launch_announce(on_, given); });
}

// Everything since begin() is on its way after this. The first step of a bucket is queued launch by
// launch, which also loads its kernels, and recorded for those to come.
status step::finish_queue() {
  if (!queued_) return queued_;
  const mode was = std::exchange(mode_, mode::direct);
  on_.dependent = false;
  if (was == mode::replaying) return recordings_.at(recorded_as()).replay(stream_);
  if (was == mode::direct) return {};
  auto made = runtime::recording::make(stream_, [this, work = std::move(pending_)]() -> status {
    on_.dependent = false;
    for (const auto& launch : work) {
      FORETOKEN_TRY(launch());
      on_.dependent = true;
    }
    return {};
  });
  on_.dependent = false;
  if (!made && made.error().code != errc::exhausted) return made.error();
  if (made) {
    recordings_.emplace(recorded_as(), *std::move(made));
  } else {  // the step itself is under way
    recordings_max_ = recordings_.size();
  }
  return {};
}

status step::head(model::step_result& out) {
  if (batch_ == nullptr) return error{errc::device, "the step failed"};
  out.slices.assign(batch_->slices.size(), {});
  for (std::size_t s = 0; s < out.slices.size(); ++s) {
    out.slices[s].sequence = batch_->slices[s].sequence;
  }
  for (const head_task& task : tasks_) {
    if (task.target >= 0) out.slices[size_of(task.slice)].scores.emplace_back();
  }
  if (on_lanes()) {
    mode_ = mode::direct;
    queue_lanes();
  }
  if (bucket_.head_rows > 0) {
    queue_head();
  } else if (!split_) {
    queue_announce();
  }
  if (const status done = finish_queue(); !done) return failed(done.error());
  out.handed_over = std::chrono::steady_clock::now() - begun_;
  left_ = !split_ && !looks() && std::ranges::none_of(tasks_, &head_task::on_host);
  if (left_) return {};
  const int tasks = static_cast<int>(tasks_.size());
  const int block = split_ ? sizes_.head_rows : tasks;
  for (int first = 0; first < tasks; first += block) {
    const int count = std::min(block, tasks - first);
    if (split_) {
      queue_logits(first, count);
      queue_choice(first, count);
    }
    if (!queued_) return failed(queued_.error());
    if (const status done = run_block(first, count, out); !done) return failed(done.error());
  }
  if (tasks == 0) {
    if (const status done = wait_for_end(); !done) return failed(done.error());
  }
  batch_ = nullptr;
  return {};
}

bool step::done() {
  return !left_ || stream_.reached(done_, static_cast<std::uint32_t>(steps_));
}

status step::finish(model::step_result& out) {
  if (!std::exchange(left_, false)) return {};
  if (const status done = wait_for_end(); !done) return failed(done.error());
  if (const status done = finish_tasks(0, static_cast<int>(tasks_.size()), out); !done)
    return failed(done.error());
  batch_ = nullptr;
  return {};
}

bool step::wants_logits() const noexcept {
  return bucket_.top > 0 || bucket_.draws;
}

bool step::looks() const noexcept {
  return chosen_.kv_saturated != nullptr && steps_ % saturation_period == 1;
}

// Of what is queued.
status step::wait_for_end() {
  if (split_) return stream_.wait();
  return stream_.wait_for(done_, static_cast<std::uint32_t>(steps_));
}

// The head of `count` tasks from `first` on is queued; waits for it and finishes the tasks.
status step::run_block(int first, int count, model::step_result& out) {
  const bool look = looks();
  if (look) {
    FORETOKEN_TRY(stream_.download(saturated_seen_, work_.kv_saturated, sizeof *saturated_seen_));
  }
  FORETOKEN_TRY(look ? stream_.wait() : wait_for_end());
  if (look) {
    chosen_.kv_saturated->add(*saturated_seen_ - saturated_counted_);
    saturated_counted_ = *saturated_seen_;
  }
  return finish_tasks(first, count, out);
}

// What the device had to do for `count` tasks from `first` on is done.
status step::finish_tasks(int first, int count, model::step_result& out) {
  const auto tasks = std::span(tasks_).subspan(size_of(first), size_of(count));
  take_back(tasks);
  if (std::ranges::any_of(tasks, &head_task::on_host)) FORETOKEN_TRY(read_logits(tasks, out));
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    if (tasks[i].on_host) continue;
    const logits_digest& digest = digests_[size_of(first) + i];
    finish_from_choice(tasks[i], bucket_.draws ? drawn_[i] : best_of(digest), digest, out);
  }
  return {};
}

// host_rows rows at a time.
status step::read_logits(std::span<const head_task> tasks, model::step_result& out) {
  const auto vocabulary = size_of(shape().vocabulary);
  const auto stride = size_of(sizes_.logits);
  std::size_t next = 0;
  while (next < tasks.size()) {
    const std::size_t first = next;
    std::size_t held = 0;
    for (; next < tasks.size() && held < size_of(sizes_.host_rows); ++next) {
      if (!tasks[next].on_host) continue;
      FORETOKEN_TRY(stream_.download(host_logits_ + held++ * stride, logits_ + next * stride,
                                     vocabulary * sizeof(float)));
    }
    FORETOKEN_TRY(stream_.wait());
    held = 0;
    for (std::size_t i = first; i < next; ++i) {
      if (!tasks[i].on_host) continue;
      const std::span<const float> logits(host_logits_ + held++ * stride, vocabulary);
      finish_from_logits(tasks[i], logits, out);
      if (probe_ != nullptr) probe_(probe_context_, tasks[i].row, logits);
    }
  }
  return {};
}

void step::finish_from_choice(const head_task& task,
                              const drawn_token& token,
                              const logits_digest& from,
                              model::step_result& out) const {
  const model::slice& owner = batch_->slices[size_of(task.slice)];
  model::sampled& to = out.slices[size_of(task.slice)].next;
  to.non_finite = token.id == drawn_broken;
  if (to.non_finite) return;
  to.id = token.id;
  const int wanted = owner.sampling->logprobs;
  if (wanted < 0) return;
  to.logprob = token.logit - from.log_sum_exp;
  for (int i = 0; i < std::min(wanted, from.count); ++i) {
    to.top.push_back({from.id[i], from.logit[i] - from.log_sum_exp});
  }
}

void step::finish_from_logits(const head_task& task,
                              std::span<const float> logits,
                              model::step_result& out) const {
  const model::slice& owner = batch_->slices[size_of(task.slice)];
  model::slice_result& to = out.slices[size_of(task.slice)];
  if (task.target >= 0) {
    const int logprobs = owner.sampling ? owner.sampling->logprobs : 0;
    to.scores[size_of(task.score_index)] = model::score(logits, task.target, std::max(0, logprobs));
  }
  if (task.sample) {
    to.next = model::sample(logits, *owner.sampling, model::prompt_of(owner), owner.generated,
                            owner.generated_count);
  }
}

}  // namespace foretoken::gpu
