// SPDX-License-Identifier: Apache-2.0
#pragma once
// A row of logits that one block draws from: its adjustments, its peak, its weights.

#include "gpu/arrival.cuh"
#include "gpu/logit_order.cuh"
#include "gpu/ordered_sums.cuh"
#include "model/token_weights.hpp"

namespace foretoken::gpu {

constexpr int draw_threads = 1024;
constexpr int draw_warps = draw_threads / 32;
constexpr int weights_block = static_cast<int>(model::weights_block);
constexpr int draw_buckets = 2048;  // of the histograms (draw.cu)

// A logit before it was adjusted.
struct kept_logit {
  std::int32_t id;
  float value;
};

// All shared memory of a block: 88 KB, of the 99 that compute capability 8.6 has.
struct draw_space {
  std::uint64_t keys[draw_candidates];  // candidates: order of the logit, complement of the id
  double sums[draw_candidates];
  union {
    struct {
      std::uint32_t low[draw_buckets], high[draw_buckets];
    } bucket;
    float weights[draw_candidates];  // of candidates
  };
  kept_logit kept[draw_adjustments];
  std::uint64_t per_warp[draw_warps];
  draw_parameters how;
  double total;
  int cut;
  std::uint32_t found;  // candidates
};

struct token_range {
  int first, count;
};

struct draw_row {
  float* logits;  // [vocabulary]
  int vocabulary;
  const draw_request* request;
  draw_space& space;
  float top = 0;  // the largest, once it is known

  FORETOKEN_DEVICE float weight(float logit) const {
    return model::weight_of((logit - top) / space.how.temperature);
  }
  FORETOKEN_DEVICE int blocks() const { return (vocabulary + weights_block - 1) / weights_block; }
  FORETOKEN_DEVICE token_range tokens(int block) const {
    const int first = block * weights_block;
    return {first, vocabulary - first < weights_block ? vocabulary - first : weights_block};
  }
};

FORETOKEN_DEVICE std::uint64_t key_of(std::uint32_t order, int id) {
  return static_cast<std::uint64_t>(order) << 32 | static_cast<std::uint32_t>(~id);
}
FORETOKEN_DEVICE std::int32_t id_of(std::uint64_t key) {
  return static_cast<std::int32_t>(~static_cast<std::uint32_t>(key));
}
FORETOKEN_DEVICE float logit_of(std::uint64_t key) {
  return from_ordered(static_cast<std::uint32_t>(key >> 32));
}

// Reads host memory only: before the wait for earlier launches.
FORETOKEN_DEVICE void load_parameters(draw_space& space, const draw_request& request) {
  if (thread_index() != 0) return;
  const auto* const from = reinterpret_cast<const u32x4*>(&request.how);
  auto* const to = reinterpret_cast<u32x4*>(&space.how);
  static_assert(sizeof(draw_parameters) == 2 * sizeof(u32x4));
  to[0] = load_host_16(from);
  to[1] = load_host_16(from + 1);
}

FORETOKEN_DEVICE model::adjustment load_adjustment(const model::adjustment* from) {
  static_assert(sizeof(model::adjustment) == sizeof(u32x4));
  const u32x4 v = load_host_16(reinterpret_cast<const u32x4*>(from));
  return {static_cast<std::int32_t>(v.x), bits_float(v.y), bits_float(v.z), bits_float(v.w)};
}

// In place, until restore(). What is no finite number stays for find_peak().
FORETOKEN_DEVICE void adjust(const draw_row& row) {
  for (int i = thread_index(); i < row.space.how.adjusted; i += draw_threads) {
    const model::adjustment by = load_adjustment(row.request->adjustments + i);
    float& logit = row.logits[by.id];
    row.space.kept[i] = {by.id, logit};
    if (is_finite(logit)) logit = model::settled(model::adjusted(logit, by));
  }
}
FORETOKEN_DEVICE void restore(const draw_row& row) {
  for (int i = thread_index(); i < row.space.how.adjusted; i += draw_threads) {
    row.logits[row.space.kept[i].id] = row.space.kept[i].value;
  }
}

// The key of the largest logit, in every thread; its order is order_broken when one is not finite.
FORETOKEN_DEVICE std::uint64_t find_peak(const draw_row& row) {
  std::uint32_t order = 0;
  int id = 0;
  FORETOKEN_UNROLL_BY(8)
  for (int i = thread_index(); i < row.vocabulary; i += draw_threads) {
    const std::uint32_t here = logit_order(row.logits[i]);
    if (here <= order) continue;
    order = here;
    id = i;
  }
  const std::uint64_t mine = warp_largest_key(order == 0 ? 0 : key_of(order, id));
  if (thread_index() % 32 == 0) row.space.per_warp[thread_index() / 32] = mine;
  block_sync();
  return warp_largest_key(row.space.per_warp[thread_index() % 32]);
}

// The sum that model::sum_in_lanes() has of the weights of a block of tokens, in every lane of one
// warp. Lane l looks at tokens l, l + 32, ... and adds up, for accumulator l % 8, those of four
// lanes in turn: the accumulator's order. Tokens beyond whole eights are added to accumulator 0.
// `see` is given each weight and says what is to be added.
template <class See>
FORETOKEN_DEVICE double weigh_block(const draw_row& row, int block, See see) {
  constexpr int turns = weights_block / 32;
  const int lane = thread_index() % 32;
  const auto [first, count] = row.tokens(block);
  const int whole = count / 8 * 8;
  float beyond = 0;
  double sum = 0;
  FORETOKEN_UNROLL_BY(4)
  for (int t = 0; t < turns; ++t) {
    const int i = 32 * t + lane;
    const float weight = i < count ? see(row.weight(row.logits[first + i])) : 0.0f;
    const std::uint32_t added = float_bits(i < whole ? weight : 0.0f);
    if (i >= whole && i < count) beyond = weight;
    FORETOKEN_UNROLL
    for (int from = 0; from < 32; from += 8) {
      sum += static_cast<double>(bits_float(shuffle(added, from + lane % 8)));
    }
  }
  for (int i = whole; i < count; ++i) {
    const float weight = bits_float(shuffle(float_bits(beyond), i % 32));
    if (lane % 8 == 0) sum += static_cast<double>(weight);
  }
  for (int mask = 1; mask < 8; mask *= 2) sum += shuffle_xor_double(sum, mask);
  return sum;
}

// The sums of all blocks of tokens, to space.sums.
template <class See>
FORETOKEN_DEVICE void weigh_all(const draw_row& row, See see) {
  for (int block = thread_index() / 32; block < row.blocks(); block += draw_warps) {
    const double sum = weigh_block(row, block, see);
    if (thread_index() % 32 == 0) row.space.sums[block] = sum;
  }
  block_sync();
}

}  // namespace foretoken::gpu
