// SPDX-License-Identifier: Apache-2.0
#pragma once
// What a thread reads later, in pieces of one size. Products of many rows leave memory idle, and
// ask for a little of it between their multiplications; what the second-level cache does not hold
// until then falls into the third. Of keys and values: 5 % more tokens of 32 streams of 128
// positions, 7 % of 64 (foretoken bench in fast, medians of 6 paired runs, EPYC Zen 5, 2026-11-30).

#include <cstddef>
#include <vector>

#include "base/inline.hpp"

namespace foretoken::cpu {

// Of one thread; filled by the caller between phases.
class alignas(64) read_list {
 public:
  // For each group of columns that a block multiplies; 1, 3 and 4 gained less.
  static constexpr int lines_at_once = 2;
  static constexpr std::size_t line_bytes = 64;

  read_list(std::size_t pieces_max, std::size_t piece_bytes) : piece_bytes_(piece_bytes) {
    list_.reserve(pieces_max);
  }
  void clear() noexcept {
    list_.clear();
    begin(0);
  }
  // False beyond pieces_max: that piece is read without having been asked for.
  bool add(const std::byte* piece) noexcept {
    if (list_.size() == list_.capacity()) return false;
    list_.push_back(piece);
    return true;
  }
  // From the start again, each piece `offset` bytes behind where it was added.
  void begin(std::size_t offset) noexcept {
    offset_ = offset;
    pieces_ = list_.data();
    left_ = list_.size();
    at_ = end_ = nullptr;
  }
  bool done() const noexcept { return left_ == 0 && at_ >= end_; }
  // The lines whose turn it is, the last piece's first: so those that are read first were asked for
  // last, and still are in the second-level cache. Null when there are no more.
  FORETOKEN_INLINE const std::byte* take() noexcept {
    if (at_ >= end_) {
      if (left_ == 0) return nullptr;
      at_ = pieces_[--left_] + offset_;
      end_ = at_ + piece_bytes_;
    }
    const std::byte* const taken = at_;
    at_ += lines_at_once * line_bytes;
    return taken;
  }

 private:
  std::vector<const std::byte*> list_;
  std::size_t piece_bytes_;
  const std::byte* const* pieces_ = nullptr;
  std::size_t offset_ = 0;
  std::size_t left_ = 0;  // pieces whose turn has not come
  const std::byte* at_ = nullptr;
  const std::byte* end_ = nullptr;
};

}  // namespace foretoken::cpu
