// SPDX-License-Identifier: Apache-2.0
#include "cpu/thread_times.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <charconv>
#include <cstdint>
#include <utility>

namespace foretoken::cpu {

thread_books thread_books::of_this_thread() noexcept {
  thread_books made;
  made.file_ = ::open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
  return made;
}

thread_books::thread_books(thread_books&& other) noexcept : file_(std::exchange(other.file_, -1)) {}

thread_books& thread_books::operator=(thread_books&& other) noexcept {
  std::swap(file_, other.file_);
  return *this;
}

thread_books::~thread_books() {
  if (file_ >= 0) ::close(file_);
}

// The file is "nanoseconds run, nanoseconds waited, turns".
std::optional<thread_times> thread_books::read() const noexcept {
  char text[80];
  const ssize_t length = file_ < 0 ? -1 : ::pread(file_, text, sizeof text, 0);
  if (length <= 0) return std::nullopt;
  const char* const end = text + length;
  std::int64_t ran = 0, waited = 0;
  const auto first = std::from_chars(text, end, ran);
  if (first.ec != std::errc{} || first.ptr == end) return std::nullopt;
  if (std::from_chars(first.ptr + 1, end, waited).ec != std::errc{}) return std::nullopt;
  return thread_times{std::chrono::nanoseconds(ran), std::chrono::nanoseconds(waited)};
}

}  // namespace foretoken::cpu
