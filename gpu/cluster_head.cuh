// SPDX-License-Identifier: Apache-2.0
#pragma once
// The head: logits = W x / rms, the best of each row, the record on the host's ring.
// A warp has whole tiles of 16 token ids; 12 warps a block, h_tiles tiles a block in order of ids.
// Ties go to the lower id at every level, so the order of the search does not matter.

#include "gpu/cluster_finish.cuh"
#include "gpu/logit_order.cuh"

namespace foretoken::gpu::cluster {

// Logit and id as one number that orders by logit, then by lower id. REQUIRES no NaN: none is ever
// the best of a lane's ids.
FORETOKEN_DEVICE std::uint64_t candidate(float logit, int id) {
  return static_cast<std::uint64_t>(ordered_bits(logit)) << 32 | ~static_cast<std::uint32_t>(id);
}
FORETOKEN_DEVICE int candidate_id(std::uint64_t c) {
  return static_cast<int>(~static_cast<std::uint32_t>(c));
}
FORETOKEN_DEVICE std::uint64_t better(std::uint64_t a, std::uint64_t b) {
  return a > b ? a : b;
}

template <class S>
struct best_of_rows {
  float logit[S::columns][2];  // of this lane's ids, rows 2q and 2q + 1 of each eight
  int id[S::columns][2];
};

template <class S>
FORETOKEN_DEVICE void take_tile(const block<S>& b,
                                best_of_rows<S>& best,
                                int first_id,
                                const float (&total)[S::columns][4]) {
  const float* const scale = b.floats(memory<S>::scale);
  const int q = b.lane % 4;
  FORETOKEN_UNROLL
  for (int c = 0; c < S::columns; ++c) {
    FORETOKEN_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int row = 8 * c + 2 * q + i % 2;
      const int id = first_id + b.lane / 4 + 8 * (i / 2);
      if (row >= b.rows) continue;
      const float logit = total[c][i] * scale[row];
      if (b.rows_of.logits != nullptr) {
        b.rows_of.logits[static_cast<std::size_t>(row) * S::vocabulary + id] = logit;
      }
      if (logit > best.logit[c][i % 2]) {
        best.logit[c][i % 2] = logit;
        best.id[c][i % 2] = id;
      }
    }
  }
}

// All tiles of this warp. `layers`: how often the slot of G was filled before.
template <class S>
FORETOKEN_DEVICE void head_tiles(const block<S>& b, best_of_rows<S>& best, int layers) {
  const int rounds = head_rounds(b);
  FORETOKEN_UNROLL_BY(1)
  for (int round = 0; round < rounds; ++round) {
    const bool even = round % 2 == 0;
    barrier_wait(b.weight_barrier(b.warp, even ? g_arrives : odd_arrives),
                 (round / 2 + (even ? layers : 0)) & 1);
    float total[S::columns][4] = {};
    tile_sums<S::steps_width, S::rows>(total, b.base() + memory<S>::input, [&](int s) {
      return static_cast<const char*>(head_segment(b, round, s));
    });
    __syncwarp();
    if (b.lane == 0) load_head_tile(b, round + 2);
    __syncwarp();
    take_tile(b, best, (b.rank * S::h_tiles + round * tile_warps + b.warp) * 16, total);
  }
}

// The input of the general path's head out of this block's B fragments: rows rank, rank + 16, ...
template <class S>
FORETOKEN_DEVICE void store_normed(const block<S>& b) {
  using at = memory<S>;
  for (int row = b.rank; row < b.rows; row += blocks) {
    const std::size_t to = wide(b.rows_of.first + row);
    for (int i = b.thread; i < S::width; i += threads) {
      const char* const step = b.base() + at::input + fragment_at<S>(i / 16, row);
      b.job.normed[to * wide(b.job.normed_stride) + wide(i)] =
          reinterpret_cast<const std::uint16_t*>(step)[fragment_place(i % 16)];
    }
    const float* const squares = b.floats(at::squares) + row / 4 * S::tiles_width * 4 + row % 4;
    for (int i = b.thread; i < S::tiles_width; i += threads) {
      b.job.squares[to * S::tiles_width + wide(i)] = squares[i * 4];
    }
  }
}

// The best of every row of this block, into block 0's memory: [row][block].
template <class S>
FORETOKEN_DEVICE void send_best(const block<S>& b, const best_of_rows<S>& best) {
  using at = memory<S>;
  auto* const of_warps = reinterpret_cast<std::uint64_t*>(b.base() + at::units);  // [row][16]
  if (b.warp < tile_warps) {
    FORETOKEN_UNROLL
    for (int c = 0; c < S::columns; ++c) {
      FORETOKEN_UNROLL
      for (int i = 0; i < 2; ++i) {
        std::uint64_t one = best.id[c][i] < 0 ? 0 : candidate(best.logit[c][i], best.id[c][i]);
        FORETOKEN_UNROLL
        for (int mask = 16; mask >= 4; mask /= 2) {
          one = better(one, __shfl_xor_sync(0xFFFFFFFFu, one, mask));
        }
        if (b.lane < 4) of_warps[(8 * c + 2 * b.lane + i) * 16 + b.warp] = one;
      }
    }
  }
  part_sync<threads>(meet_best);
  if (b.thread >= b.rows) return;
  std::uint64_t one = 0;
  for (int w = 0; w < tile_warps; ++w) one = better(one, of_warps[b.thread * 16 + w]);
  const std::uint32_t to = b.local(at::best + (b.thread * blocks + b.rank) * 8);
  store_in_cluster(to, 0, static_cast<std::uint32_t>(one));
  store_in_cluster(to + 4, 0, static_cast<std::uint32_t>(one >> 32));
}

// Block 0, after the cluster met: one thread a row.
template <class S>
FORETOKEN_DEVICE void publish(const block<S>& b) {
  if (b.rank != 0 || b.thread >= b.rows) return;
  if (b.thread == 0 && b.job.clamped != nullptr && b.table().clamped != 0) {
    atomicAdd(b.job.clamped, b.table().clamped);
  }
  if (b.job.normed != nullptr) return;
  const auto* const of_blocks =
      reinterpret_cast<const std::uint64_t*>(b.base() + memory<S>::best) + b.thread * blocks;
  std::uint64_t one = 0;
  for (int r = 0; r < blocks; ++r) one = better(one, of_blocks[r]);
  if (b.rows_of.ring == nullptr) return;
  ring_record* const record = b.rows_of.ring + b.thread;
  record->token = one == 0 ? -1 : candidate_id(one);
  record->logit = from_ordered(static_cast<std::uint32_t>(one >> 32));
  record->clamped = b.table().clamped;
  asm volatile("st.release.sys.global.u32 [%0],%1;" ::"l"(&record->step), "r"(b.rows_of.step)
               : "memory");
}

}  // namespace foretoken::gpu::cluster
