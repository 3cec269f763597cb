// SPDX-License-Identifier: Apache-2.0
#pragma once
// Plans for several devices, each with a pool of its own and a scheduler over it. A new sequence
// goes where the least work is predicted, what the device's cache holds of its prompt taken off; it
// stays there with its pages. When its device is lost while another is up it moves, with its
// tokens, and is computed again there. Which device computes a sequence changes none of its bits.
// A plain object like batch_scheduler. Not thread-safe.

#include <cstdint>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "cache/pools.hpp"
#include "scheduler/scheduler.hpp"

namespace foretoken::scheduler {

class device_plans {
 public:
  // The options hold for each device by itself. `pools` must outlive this.
  device_plans(options chosen, cache::pools& pools);
  ~device_plans();
  int devices() const noexcept { return static_cast<int>(seats_.size()); }

  // Errors: batch_scheduler::add's of the device that was chosen. While no device is up the
  // sequence waits for whichever comes first. `beside`: a sequence whose prompt is the same, or
  // none.
  status add(new_sequence added, sequence_id beside = {});
  // See batch_scheduler; each device has micro-batches, credits and steps of its own.
  std::optional<model::micro_batch> plan(int device);
  bool ready(int device) const;
  std::vector<progress> complete(int device, const model::step_result& done);
  void end(sequence_id id);

  // Sequences that wait on devices which are not up move to this one, and others that are.
  // `flights`: batch_scheduler::set_flights.
  void device_up(int device, int flights = 1);
  // Its sequences move to the devices that are up; without any they wait.
  std::vector<suspect> device_lost(int device, bool ordered = false);
  bool any_up() const noexcept;

  int cached_tokens(sequence_id id) const;
  int in_flight(int device) const;
  scheduler_stats stats() const;  // of all devices together

 private:
  struct seat {
    std::unique_ptr<batch_scheduler> plans;
    cache::kv_cache* pages = nullptr;
    bool up = false;
    std::int64_t work = 0;  // predicted, of the sequences placed here, in rows of prompts
  };
  struct place {
    int device = 0;
    std::int64_t work = 0;    // still to be done
    std::int64_t prompt = 0;  // part of it: tokens known and not computed
  };
  seat& at(int device) { return seats_.at(static_cast<std::size_t>(device)); }
  const seat& at(int device) const { return seats_.at(static_cast<std::size_t>(device)); }
  struct choice {
    int device = 0;
    int cached = 0;  // tokens of the prompt that need no computing there
  };
  choice least_work(const new_sequence& added, sequence_id beside) const;
  void note(const progress& step);
  void spend(place& of, std::int64_t work);
  void move_waiting(int from);

  std::vector<seat> seats_;
  std::unordered_map<sequence_id, place> placed_;
  std::uint64_t arrivals_ = 0;
};

}  // namespace foretoken::scheduler
