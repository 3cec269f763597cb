// SPDX-License-Identifier: Apache-2.0
#include "cpu/thread_pool.hpp"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "base/assert.hpp"
#include "base/counters.hpp"
#include "base/log.hpp"
#include "cpu/pool_width.hpp"
#include "cpu/thread_times.hpp"

namespace foretoken::cpu {
namespace {

// How long a thread looks for work before it sleeps: longer than the gap between two phases of a
// step, shorter than anyone who waits for this core would notice.
constexpr std::chrono::microseconds spin_time{20};
constexpr int pauses_between_looks_at_the_clock = 32;
// A phase of one row takes 10 us: the clock costs nothing, and is read often enough for any window.
constexpr int phases_between_looks_at_the_width = 16;
constexpr std::chrono::minutes between_messages{1};

void pause_briefly() noexcept {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// What a waiting thread asks for, two lines at a time, into the second-level cache.
struct waiting_reader {
  const std::byte* first = nullptr;
  const std::byte* at = nullptr;
  const std::byte* end = nullptr;

  void next() noexcept {
    if (at == end) return pause_briefly();
    for (int i = 0; i < 2 && at < end; ++i, at += std::min<std::ptrdiff_t>(64, end - at)) {
      __builtin_prefetch(at, 0, 2);
    }
  }
};

// Spins until ready() or until spin_time is over, and reads ahead; says which.
template <class Ready>
bool spin_until(waiting_reader& ahead, Ready&& ready) {
  const auto give_up = std::chrono::steady_clock::now() + spin_time;
  do {
    for (int i = 0; i < pauses_between_looks_at_the_clock; ++i) {
      if (ready()) return true;
      ahead.next();
    }
  } while (std::chrono::steady_clock::now() < give_up);
  return ready();
}

// The tickets of a share that nobody has taken, in one word with the phase, so that a thread that
// wakes late takes a ticket of the current phase or none: [phase 16 | end 24 | next 24].
constexpr int ticket_bits = 24;
constexpr std::uint64_t ticket_mask = (std::uint64_t{1} << ticket_bits) - 1;
constexpr std::uint64_t one_less = std::uint64_t{1} << ticket_bits;  // from the end

std::uint64_t share_word(std::uint64_t phase, int first, int end) noexcept {
  return (phase << (2 * ticket_bits)) | (static_cast<std::uint64_t>(end) << ticket_bits) |
         static_cast<std::uint64_t>(first);
}
int first_of(std::uint64_t word) noexcept {
  return static_cast<int>(word & ticket_mask);
}
int end_of(std::uint64_t word) noexcept {
  return static_cast<int>((word >> ticket_bits) & ticket_mask);
}

int first_of_share(int thread, int tickets, int threads) noexcept {
  return static_cast<int>(std::int64_t{tickets} * thread / threads);
}

}  // namespace

struct thread_pool::state {
  struct alignas(64) share {
    std::atomic<std::uint64_t> word{0};
    // What its thread reads later; two words of different calls only ask for lines nobody needs.
    std::atomic<const std::byte*> later{nullptr};
    std::atomic<std::size_t> later_bytes{0};
    alignas(64) waiting_reader ahead;  // of the thread alone
    thread_books books;                // written before they are there
    std::atomic<bool> books_there{false};

    // Goes on where the last wait stopped when there is nothing new.
    waiting_reader& reader() noexcept {
      const std::byte* const from = later.load(std::memory_order_relaxed);
      if (from != ahead.first) {
        ahead = {from, from, from + later_bytes.load(std::memory_order_relaxed)};
      }
      return ahead;
    }
  };
  std::vector<share> shares;                  // one a thread
  alignas(64) std::atomic<int> remaining{0};  // tickets of this phase that are not finished
  // Written by the caller before a phase is published; read only by holders of one of its tickets.
  alignas(64) ticket_function work = nullptr;
  void* context = nullptr;

  alignas(64) std::atomic<std::uint64_t> published{0};  // phases so far
  std::atomic<int> width;                               // threads that work; the others rest
  alignas(64) std::atomic<int> parked{0};               // sleeping workers
  std::atomic<bool> caller_parked{false};
  std::atomic<bool> stopping{false};
  std::mutex mutex;
  std::condition_variable work_ready;
  std::condition_variable phase_done;
  std::condition_variable recalled;  // for those that rest
  std::vector<std::thread> workers;

  // The caller's, between phases.
  pool_width fitting;
  std::vector<thread_times> times;  // one a thread
  std::thread::id caller;
  int phases_until_look = phases_between_looks_at_the_width;
  std::chrono::steady_clock::time_point message_after{};

  gauge* working;  // shows the width; may be null

  state(int threads, gauge* shown)
      : shares(static_cast<std::size_t>(threads)),
        width(threads),
        fitting(threads),
        times(static_cast<std::size_t>(threads)),
        working(shown) {}

  void show_width() const noexcept {
    if (working != nullptr) working->set(width.load(std::memory_order_relaxed));
  }

  // Fewer threads than asked for. Before the first phase.
  void keep(int threads) {
    width.store(threads, std::memory_order_relaxed);
    fitting = pool_width(threads);
    times.resize(static_cast<std::size_t>(threads));
  }

  // A ticket of the share: its owner's from the front, in order, another thread's from the end; -1
  // when none is left.
  int take(share& from, bool own) noexcept {
    std::uint64_t seen = from.word.load(std::memory_order_acquire);
    while (first_of(seen) < end_of(seen)) {
      if (from.word.compare_exchange_weak(seen, own ? seen + 1 : seen - one_less,
                                          std::memory_order_acq_rel, std::memory_order_acquire)) {
        return own ? first_of(seen) : end_of(seen) - 1;
      }
    }
    return -1;
  }

  // Runs the thread's own share, then what is left of the others'. The phase cannot end before the
  // count is given back, so work and context stay what they are.
  void run_tickets(int thread) {
    const int count = static_cast<int>(shares.size());
    int done = 0;
    for (int i = 0; i < count; ++i) {
      share& from = shares[static_cast<std::size_t>((thread + i) % count)];
      for (int ticket = take(from, i == 0); ticket >= 0; ticket = take(from, i == 0)) {
        work(context, ticket, thread);
        ++done;
      }
    }
    if (done > 0 && remaining.fetch_sub(done, std::memory_order_seq_cst) == done) wake_caller();
  }

  void wake_caller() {
    if (!caller_parked.load(std::memory_order_seq_cst)) return;
    const std::lock_guard lock(mutex);
    phase_done.notify_one();
  }

  bool rests(int thread) const noexcept { return thread >= width.load(std::memory_order_relaxed); }

  bool wanted(int thread, std::uint64_t seen) const noexcept {
    return stopping.load(std::memory_order_seq_cst) ||
           published.load(std::memory_order_seq_cst) != seen || rests(thread);
  }

  void rest(int thread) {
    std::unique_lock lock(mutex);
    recalled.wait(lock, [&] { return stopping.load(std::memory_order_seq_cst) || !rests(thread); });
  }

  void worker(int thread) {
    share& own = shares[static_cast<std::size_t>(thread)];
    own.books = thread_books::of_this_thread();
    own.books_there.store(true, std::memory_order_release);
    std::uint64_t seen = 0;
    while (!stopping.load(std::memory_order_relaxed)) {
      if (rests(thread)) rest(thread);
      if (!spin_until(own.reader(), [&] { return wanted(thread, seen); })) {
        std::unique_lock lock(mutex);
        parked.fetch_add(1, std::memory_order_seq_cst);
        work_ready.wait(lock, [&] { return wanted(thread, seen); });
        parked.fetch_sub(1, std::memory_order_seq_cst);
      }
      seen = published.load(std::memory_order_seq_cst);
      run_tickets(thread);
    }
  }

  void wait_for_others() {
    const auto done = [this] { return remaining.load(std::memory_order_seq_cst) == 0; };
    if (spin_until(shares[0].reader(), done)) return;
    std::unique_lock lock(mutex);
    caller_parked.store(true, std::memory_order_seq_cst);
    phase_done.wait(lock, done);
    caller_parked.store(false, std::memory_order_seq_cst);
  }

  void publish(int tickets) {
    const std::uint64_t phase = published.load(std::memory_order_relaxed) + 1;
    const int count = width.load(std::memory_order_relaxed);
    for (int t = 0; t < count; ++t) {
      shares[static_cast<std::size_t>(t)].word.store(
          share_word(phase & 0xFFFF, first_of_share(t, tickets, count),
                     first_of_share(t + 1, tickets, count)),
          std::memory_order_release);
    }
    published.store(phase, std::memory_order_seq_cst);
    if (parked.load(std::memory_order_seq_cst) == 0) return;
    { const std::lock_guard lock(mutex); }  // a worker about to sleep has seen the phase or sleeps
    work_ready.notify_all();
  }

  // False when nothing follows from them: the caller is another than before, or the system keeps
  // no books.
  bool read_times() {
    share& its = shares[0];
    const bool same = caller == std::this_thread::get_id() && its.books.read();
    if (!same) {
      caller = std::this_thread::get_id();
      its.books = thread_books::of_this_thread();
      its.books_there.store(true, std::memory_order_relaxed);
    }
    for (std::size_t i = 0; i < times.size(); ++i) {
      if (!shares[i].books_there.load(std::memory_order_acquire)) continue;
      times[i] = shares[i].books.read().value_or(times[i]);
    }
    return same;
  }

  void fit_width() {
    const auto now = std::chrono::steady_clock::now();
    if (!fitting.due(now)) return;
    if (!read_times()) return fitting.start_window(now, times);
    if (!fitting.look(now, times)) return;
    const int before = width.load(std::memory_order_relaxed);
    {
      const std::lock_guard lock(mutex);
      width.store(fitting.threads(), std::memory_order_seq_cst);
    }  // a worker about to sleep has seen it or sleeps
    show_width();
    work_ready.notify_all();
    recalled.notify_all();
    if (fitting.threads() > before || now < message_after) return;
    message_after = now + between_messages;
    log::info("cpu", "other programs use the cores: {} of {} compute threads work, for a while",
              fitting.threads(), times.size());
  }
};

thread_pool::thread_pool(int threads, gauge* working)
    : state_(std::make_unique<state>(threads, working)) {
  FORETOKEN_ASSERT(threads >= 1);
  state_->workers.reserve(static_cast<std::size_t>(threads - 1));
  for (int i = 1; i < threads; ++i) {
    try {
      state_->workers.emplace_back([s = state_.get(), i] { s->worker(i); });
      pthread_setname_np(state_->workers.back().native_handle(), "ft-compute");
    } catch (const std::system_error&) {
      state_->keep(i);  // the system gives no more threads: the answers are the same with fewer
      break;
    }
  }
  state_->show_width();
}

thread_pool::~thread_pool() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->stopping.store(true, std::memory_order_seq_cst);
  }
  state_->work_ready.notify_all();
  state_->recalled.notify_all();
  for (std::thread& worker : state_->workers) worker.join();
}

int thread_pool::threads() const noexcept {
  return state_->width.load(std::memory_order_relaxed);
}

int thread_pool::first_ticket(int thread, int tickets) const noexcept {
  return first_of_share(thread, tickets, threads());
}

void thread_pool::read_while_waiting(int thread, std::span<const std::byte> later) noexcept {
  state::share& its = state_->shares[static_cast<std::size_t>(thread)];
  its.later_bytes.store(later.size(), std::memory_order_relaxed);
  its.later.store(later.data(), std::memory_order_relaxed);
}

void thread_pool::run_tickets(int tickets, ticket_function work, void* context) {
  FORETOKEN_ASSERT(tickets >= 0 && static_cast<std::uint64_t>(tickets) < ticket_mask);
  state& s = *state_;
  if (tickets <= 1 || threads() == 1) {
    for (int i = 0; i < tickets; ++i) work(context, i, 0);
  } else {
    s.work = work;
    s.context = context;
    s.remaining.store(tickets, std::memory_order_relaxed);
    s.publish(tickets);
    s.run_tickets(0);
    s.wait_for_others();
  }
  if (!s.workers.empty() && --s.phases_until_look == 0) {
    s.phases_until_look = phases_between_looks_at_the_width;
    s.fit_width();
  }
}

}  // namespace foretoken::cpu
