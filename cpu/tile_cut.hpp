// SPDX-License-Identifier: Apache-2.0
#pragma once
// How the product of a matrix and some rows is cut into tickets: a range of rows of one tile each.

#include <algorithm>
#include <numeric>

namespace foretoken::cpu {

// Rows of one ticket: 128 rows of a tile's results are 32 KiB, half of L1 and L2's small change.
constexpr int ticket_rows = 128;
constexpr int kernel_rows = 4;  // of a kernel's block

// Each thread has whole tiles, and where these do not come out even, its part of the rows of those
// that are left over: a tile's stream and its table of scales serve all rows at once. A value.
class tile_cut {
 public:
  struct ticket {
    int tile = 0;
    int first = 0, end = 0;  // rows; may be none
  };

  // REQUIRES tiles, rows and threads of at least 1.
  tile_cut(int tiles, int rows, int threads) noexcept : rows_(rows), threads_(threads) {
    parts_ = (rows + ticket_rows - 1) / ticket_rows;
    part_rows_ = whole_blocks(rows, parts_);
    const int all = tiles * parts_;
    const int left = all % threads;
    const int pieces = left == 0 ? 1 : threads / std::gcd(left, threads);
    if (part_rows_ >= kernel_rows * pieces) {
      pieces_ = pieces;
      whole_ = all / threads;
      tickets_ = all - left + left * pieces;
    } else {  // too few rows for even shares: every tile in halves, if in anything
      pieces_ = part_rows_ >= 2 * kernel_rows ? 2 : 1;
      tickets_ = all * pieces_;
    }
  }

  // A thread's share of them is the pool's, first_ticket() to first_ticket().
  int tickets() const noexcept { return tickets_; }

  ticket at(int number) const noexcept {
    if (whole_ == 0) return piece_of(number / pieces_, number % pieces_, pieces_);
    const int share = tickets_ / threads_;
    const int thread = number / share;
    const int within = number % share;
    if (within < whole_) return piece_of(thread * whole_ + within, 0, 1);
    const int piece = thread * (share - whole_) + within - whole_;
    return piece_of(threads_ * whole_ + piece / pieces_, piece % pieces_, pieces_);
  }

 private:
  static int whole_blocks(int rows, int parts) noexcept {
    return (rows + kernel_rows * parts - 1) / (kernel_rows * parts) * kernel_rows;
  }

  // `unit`: a part of a tile, in order.
  ticket piece_of(int unit, int piece, int pieces) const noexcept {
    const int rows = whole_blocks(part_rows_, pieces);
    const int begin = unit % parts_ * part_rows_;
    const int first = begin + piece * rows;
    const int end = std::min({first + rows, begin + part_rows_, rows_});
    return {unit / parts_, std::min(first, end), end};
  }

  int rows_;
  int threads_;
  int parts_;      // of a tile, because of ticket_rows
  int part_rows_;  // of each, at most
  int pieces_;     // of a part that is cut
  int whole_ = 0;  // parts that a thread has whole
  int tickets_;
};

}  // namespace foretoken::cpu
