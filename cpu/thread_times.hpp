// SPDX-License-Identifier: Apache-2.0
#pragma once
// What the system did with a thread, by its own books.

#include <chrono>
#include <optional>

namespace foretoken::cpu {

struct thread_times {
  std::chrono::nanoseconds ran{0};
  std::chrono::nanoseconds waited{0};  // it could have run, but its core was another's
};

// The books of the thread that opened them, for any thread to read. Not every system keeps them.
class thread_books {
 public:
  static thread_books of_this_thread() noexcept;
  thread_books() = default;
  thread_books(thread_books&& other) noexcept;
  thread_books& operator=(thread_books&& other) noexcept;
  ~thread_books();
  // Nothing when the system keeps no books.
  std::optional<thread_times> read() const noexcept;

 private:
  int file_ = -1;
};

}  // namespace foretoken::cpu
