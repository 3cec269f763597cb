// SPDX-License-Identifier: Apache-2.0
#include "cpu/arena.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <mutex>
#include <new>
#include <string>

namespace foretoken::cpu {
namespace {

constexpr std::uint64_t huge_page = 2u << 20;
constexpr std::uint64_t mapping_bytes = 64u << 20;  // address space; memory is taken when touched

constexpr std::uint64_t round_up(std::uint64_t value, std::uint64_t unit) {
  return (value + unit - 1) / unit * unit;
}

class mapping {
 public:
  // Null when the system refuses.
  static std::shared_ptr<mapping> make(std::uint64_t bytes) {
    const std::uint64_t length = round_up(bytes, huge_page) + huge_page;
    void* const start = mmap(nullptr, length, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED) return nullptr;
    return std::make_shared<mapping>(start, length);
  }
  mapping(void* start, std::uint64_t length) noexcept : start_(start), length_(length) {
    const auto address = reinterpret_cast<std::uintptr_t>(start);
    const std::uint64_t skip = round_up(address, huge_page) - address;
    usable_ = static_cast<std::byte*>(start) + skip;
    capacity_ = (length - skip) / huge_page * huge_page;
    madvise(usable_, capacity_, MADV_HUGEPAGE);  // only speed depends on it
  }
  mapping(const mapping&) = delete;
  mapping& operator=(const mapping&) = delete;
  ~mapping() { munmap(start_, length_); }

  // Null when it does not fit.
  std::byte* cut(std::uint64_t bytes) noexcept {
    if (bytes > capacity_ - used_) return nullptr;
    std::byte* const block = usable_ + used_;
    used_ += bytes;
    return block;
  }

 private:
  void* start_;
  std::uint64_t length_;
  std::byte* usable_ = nullptr;
  std::uint64_t capacity_ = 0;
  std::uint64_t used_ = 0;
};

// The mapping that is being cut; weak, so that dropping a model gives its memory back.
struct shared_mapping {
  std::mutex mutex;
  std::weak_ptr<mapping> current;
};
shared_mapping& open_mapping() {
  static shared_mapping shared;
  return shared;
}

}  // namespace

result<memory_block> memory_block::take(std::uint64_t bytes) {
  const error refused{errc::exhausted, "the system gave no memory for " + std::to_string(bytes) +
                                           " bytes of weights"};
  if (bytes > (std::uint64_t{1} << 46)) return refused;
  bytes = round_up(std::max<std::uint64_t>(bytes, 1), 64);
  shared_mapping& shared = open_mapping();
  const std::lock_guard lock(shared.mutex);
  std::shared_ptr<mapping> from = shared.current.lock();
  std::byte* block = from ? from->cut(bytes) : nullptr;
  if (!block) {
    from = mapping::make(std::max(bytes, mapping_bytes));
    if (!from) return refused;
    shared.current = from;
    block = from->cut(bytes);
  }
  return memory_block(std::shared_ptr<std::byte>(std::move(from), block));
}

}  // namespace foretoken::cpu
