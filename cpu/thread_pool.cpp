// SPDX-License-Identifier: Apache-2.0
#include "cpu/thread_pool.hpp"

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "base/assert.hpp"

namespace foretoken::cpu {
namespace {

// How long a thread looks for work before it sleeps: longer than the gap between two phases of a
// step, shorter than anyone who waits for this core would notice.
constexpr std::chrono::microseconds spin_time{20};
constexpr int pauses_between_looks_at_the_clock = 32;

void pause_briefly() noexcept {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Spins until ready() or until spin_time is over; says which.
template <class Ready>
bool spin_until(Ready&& ready) {
  const auto give_up = std::chrono::steady_clock::now() + spin_time;
  do {
    for (int i = 0; i < pauses_between_looks_at_the_clock; ++i) {
      if (ready()) return true;
      pause_briefly();
    }
  } while (std::chrono::steady_clock::now() < give_up);
  return ready();
}

// The phase, its ticket count and the next ticket in one word, so that a thread that wakes late
// takes a ticket of the current phase or none: [phase 16 | tickets 24 | next 24].
constexpr int ticket_bits = 24;
constexpr std::uint64_t ticket_mask = (std::uint64_t{1} << ticket_bits) - 1;

std::uint64_t first_cursor(std::uint64_t phase, int tickets) noexcept {
  return (phase << (2 * ticket_bits)) | (static_cast<std::uint64_t>(tickets) << ticket_bits);
}
bool has_ticket(std::uint64_t cursor) noexcept {
  return (cursor & ticket_mask) < ((cursor >> ticket_bits) & ticket_mask);
}

}  // namespace

struct thread_pool::state {
  alignas(64) std::atomic<std::uint64_t> cursor{0};
  alignas(64) std::atomic<int> remaining{0};  // tickets of this phase that are not finished
  // Written by the caller before a phase is published; read only by holders of one of its tickets.
  alignas(64) ticket_function work = nullptr;
  void* context = nullptr;

  alignas(64) std::atomic<int> parked{0};  // sleeping workers
  std::atomic<bool> caller_parked{false};
  std::atomic<bool> stopping{false};
  std::mutex mutex;
  std::condition_variable work_ready;
  std::condition_variable phase_done;
  std::uint64_t phase = 0;
  std::vector<std::thread> workers;

  // Takes and runs one ticket; false when none is left.
  bool run_one(int thread) {
    std::uint64_t seen = cursor.load(std::memory_order_acquire);
    do {
      if (!has_ticket(seen)) return false;
    } while (!cursor.compare_exchange_weak(seen, seen + 1, std::memory_order_acq_rel,
                                           std::memory_order_acquire));
    // The phase cannot end while this ticket is open, so work and context stay what they are.
    work(context, static_cast<int>(seen & ticket_mask), thread);
    if (remaining.fetch_sub(1, std::memory_order_seq_cst) == 1) wake_caller();
    return true;
  }

  void wake_caller() {
    if (!caller_parked.load(std::memory_order_seq_cst)) return;
    const std::lock_guard lock(mutex);
    phase_done.notify_one();
  }

  bool wanted() const noexcept {
    return stopping.load(std::memory_order_seq_cst) ||
           has_ticket(cursor.load(std::memory_order_seq_cst));
  }

  void worker(int thread) {
    while (!stopping.load(std::memory_order_relaxed)) {
      if (run_one(thread)) continue;
      if (spin_until([this] { return wanted(); })) continue;
      std::unique_lock lock(mutex);
      parked.fetch_add(1, std::memory_order_seq_cst);
      work_ready.wait(lock, [this] { return wanted(); });
      parked.fetch_sub(1, std::memory_order_seq_cst);
    }
  }

  void wait_for_others() {
    const auto done = [this] { return remaining.load(std::memory_order_seq_cst) == 0; };
    if (spin_until(done)) return;
    std::unique_lock lock(mutex);
    caller_parked.store(true, std::memory_order_seq_cst);
    phase_done.wait(lock, done);
    caller_parked.store(false, std::memory_order_seq_cst);
  }
};

thread_pool::thread_pool(int threads) : state_(std::make_unique<state>()) {
  FORETOKEN_ASSERT(threads >= 1);
  state_->workers.reserve(static_cast<std::size_t>(threads - 1));
  for (int i = 1; i < threads; ++i) {
    try {
      state_->workers.emplace_back([s = state_.get(), i] { s->worker(i); });
      pthread_setname_np(state_->workers.back().native_handle(), "ft-compute");
    } catch (const std::system_error&) {
      break;  // the system gives no more threads: the answers are the same with fewer
    }
  }
}

thread_pool::~thread_pool() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->stopping.store(true, std::memory_order_seq_cst);
  }
  state_->work_ready.notify_all();
  for (std::thread& worker : state_->workers) worker.join();
}

int thread_pool::threads() const noexcept {
  return static_cast<int>(state_->workers.size()) + 1;
}

void thread_pool::run_tickets(int tickets, ticket_function work, void* context) {
  FORETOKEN_ASSERT(tickets >= 0 && static_cast<std::uint64_t>(tickets) < ticket_mask);
  if (state_->workers.empty() || tickets <= 1) {
    for (int i = 0; i < tickets; ++i) work(context, i, 0);
    return;
  }
  state& s = *state_;
  s.work = work;
  s.context = context;
  s.remaining.store(tickets, std::memory_order_relaxed);
  s.cursor.store(first_cursor(++s.phase & 0xFFFF, tickets), std::memory_order_seq_cst);
  if (s.parked.load(std::memory_order_seq_cst) > 0) {
    {
      const std::lock_guard lock(s.mutex);
    }  // a worker about to sleep has seen the phase or sleeps
    s.work_ready.notify_all();
  }
  while (s.run_one(0)) {
  }
  s.wait_for_others();
}

}  // namespace foretoken::cpu
