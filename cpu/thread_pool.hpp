// SPDX-License-Identifier: Apache-2.0
#pragma once
// Compute threads that run one phase at a time. The caller is thread 0. A phase is cut into
// tickets; each thread has an equal share of neighbouring ones, which it runs in order (so that it
// knows what it reads next), and then takes others' from the end. So a thread that the system put
// to sleep never holds up the others by more than one ticket. Waiting threads spin briefly, then
// park. Where other programs use the cores, some threads may rest for a while (pool_width.hpp).

#include <cstddef>
#include <memory>
#include <span>
#include <type_traits>

namespace foretoken {
class gauge;
}  // namespace foretoken

namespace foretoken::cpu {

class thread_pool {
 public:
  // threads >= 1, the caller included. `working`: shows threads(), for operators; outlives the
  // pool; may be null.
  explicit thread_pool(int threads, gauge* working = nullptr);
  ~thread_pool();
  // That have a share of the next phase, the first so many: between phases it may change, within
  // what was asked for. One that has none may still take others' tickets, so what `work` keeps a
  // thread has room for as many as were asked for.
  int threads() const noexcept;
  // The first ticket of a thread's share; for threads(): `tickets`.
  int first_ticket(int thread, int tickets) const noexcept;

  // What a thread reads in a later phase: it asks the memory for it while it waits, be it in
  // several waits. The bytes must live as long as the pool, or until others take their place and a
  // phase has run. The caller's to call, between phases.
  void read_while_waiting(int thread, std::span<const std::byte> later) noexcept;

  // Runs work(ticket, thread) for every ticket in [0, tickets), and returns when all are done. One
  // caller at a time. `work` must not throw and must not depend on which thread runs it.
  template <class Work>
  void run(int tickets, Work&& work) {
    run_tickets(
        tickets,
        [](void* context, int ticket, int thread) {
          (*static_cast<std::remove_reference_t<Work>*>(context))(ticket, thread);
        },
        &work);
  }

 private:
  using ticket_function = void (*)(void* context, int ticket, int thread);
  void run_tickets(int tickets, ticket_function work, void* context);
  struct state;
  std::unique_ptr<state> state_;
};

}  // namespace foretoken::cpu
