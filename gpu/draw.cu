// SPDX-License-Identifier: Apache-2.0
// One token of every row that draws, as model::sample() draws it from the same logits: the same
// float operations for a weight (model/token_weights.hpp), the same order of every sum in double.
//
// A block a row, in up to three passes over its logits:
//   1 the largest
//   2 without top_k the weights, summed in blocks of 512; a histogram of them by the high bits of
//     the float where top_p cuts, or of the distances to the largest where top_k does
//   3 candidates: tokens above the bucket where the histogram reaches what is wanted
// Candidates are sorted by (logit descending, id ascending), at most 4,096; their sums follow that
// order. Without top_k and top_p there are none: sums of blocks say in which the draw falls.
//
// A bucket of weights has one exponent, so their mantissas add up exactly, in any order, and the
// cut is the host's. Distances to the largest are monotone in the logit, so what is nearer than a
// bucket's end is the beginning of the order.
//
// The host draws where there are more candidates, and where its order of additions and that of the
// blocks round to different sides of the draw.
// Bytes: 4 vocabulary a row and pass, out of the second-level cache; some 40 operations a token in
// the second.

#include "gpu/draw_row.cuh"
#include "gpu/launch.cuh"

namespace foretoken::gpu {
namespace {

constexpr int half_mantissa = 12;  // bits of each half of the 24
// Sums of blocks have room; halves of as many mantissas fit 32 bits.
static_assert(draw_vocabulary / weights_block <= draw_candidates);

// ---- top_k and top_p off -----------------------------------------------------------------------

// One warp: the token of `block` where the sum, `before` ahead of it, passes the target.
FORETOKEN_DEVICE std::int32_t draw_in_block(const draw_row& row,
                                            int block,
                                            double before,
                                            double target) {
  draw_space& space = row.space;
  const auto [first, count] = row.tokens(block);
  for (int i = thread_index() % 32; i < count; i += 32) {
    const float weight = row.weight(row.logits[first + i]);
    space.sums[i] = weight < space.how.min_p ? 0.0 : static_cast<double>(weight);
  }
  warp_sync();
  if (thread_index() == 0) {
    space.sums[0] += before;
    accumulate(space.sums, count, target);
  }
  warp_sync();
  const int at = first_where(count, [&](int i) { return space.sums[i] > target; });
  return at < count ? first + at : drawn_by_host;
}

// By id, over all tokens that min_p leaves; in the first warp's threads.
FORETOKEN_DEVICE std::int32_t draw_from_all(const draw_row& row) {
  draw_space& space = row.space;
  const float least = space.how.min_p;
  weigh_all(row, [&](float weight) { return weight < least ? 0.0f : weight; });
  if (thread_index() >= 32) return 0;
  const int blocks = row.blocks();
  if (thread_index() == 0) accumulate(space.sums, blocks, INFINITY);
  warp_sync();
  const double target = space.how.uniform * space.sums[blocks - 1];
  const int block = first_where(blocks, [&](int b) { return space.sums[b] > target; });
  if (block == blocks) return drawn_by_host;
  const double before = block > 0 ? space.sums[block - 1] : 0.0;
  warp_sync();
  return draw_in_block(row, block, before, target);
}

// ---- candidates in order -----------------------------------------------------------------------

FORETOKEN_DEVICE void clear_buckets(draw_space& space) {
  for (int b = thread_index(); b < draw_buckets; b += draw_threads) {
    space.bucket.low[b] = space.bucket.high[b] = 0;
  }
  block_sync();
}

// The first bucket at whose end there is more than `wanted`; the last when there never is.
// `amount(b)`: what bucket b holds.
template <class Amount>
FORETOKEN_DEVICE int find_cut(draw_space& space, int buckets, double wanted, Amount amount) {
  for (int b = thread_index(); b < buckets; b += draw_threads) space.sums[b] = amount(b);
  block_sync();
  if (thread_index() < 32) {
    if (thread_index() == 0) space.cut = accumulate(space.sums, buckets, wanted);
    warp_sync();
    const int summed = space.cut;
    const int cut = first_where(summed, [&](int b) { return space.sums[b] > wanted; });
    warp_sync();
    if (thread_index() == 0) space.cut = cut < buckets ? cut : buckets - 1;
  }
  block_sync();
  return space.cut;
}

// Those that `among` names, in order; their number, the same in every thread. More than
// draw_candidates: they are not there.
template <class Among>
FORETOKEN_DEVICE int gather(const draw_row& row, Among among) {
  draw_space& space = row.space;
  if (thread_index() == 0) space.found = 0;
  block_sync();
  FORETOKEN_UNROLL_BY(4)
  for (int id = thread_index(); id < row.vocabulary; id += draw_threads) {
    const float logit = row.logits[id];
    if (!among(logit)) continue;
    const std::uint32_t place = atomic_add(&space.found, 1u);
    if (place < draw_candidates) space.keys[place] = key_of(logit_order(logit), id);
  }
  block_sync();
  const auto found = static_cast<int>(space.found);
  if (found <= draw_candidates) sort_descending(space.keys, found, draw_threads);
  return found;
}

// The first `count` candidates, cut by top_p of `total` and by min_p; in the first warp's threads.
// total < 0: that of the candidates themselves.
FORETOKEN_DEVICE std::int32_t draw_from_candidates(const draw_row& row, int count, double total) {
  draw_space& space = row.space;
  const draw_parameters& how = space.how;
  for (int i = thread_index(); i < count; i += draw_threads) {
    space.weights[i] = row.weight(logit_of(space.keys[i]));
    space.sums[i] = static_cast<double>(space.weights[i]);
  }
  block_sync();
  if (thread_index() >= 32) return 0;
  const double beyond = total < 0 ? INFINITY : static_cast<double>(how.top_p) * total;
  if (thread_index() == 0) space.cut = accumulate(space.sums, count, beyond);
  warp_sync();
  const int summed = space.cut;
  if (total < 0) total = space.sums[count - 1];
  const double enough = how.top_p < 1 ? static_cast<double>(how.top_p) * total : total * 2;
  const int kept = first_where(summed, [&](int i) {
    return i > 0 && (space.sums[i - 1] >= enough || space.weights[i] < how.min_p);
  });
  const double target = how.uniform * space.sums[kept - 1];
  const int at = first_where(kept, [&](int i) { return space.sums[i] > target; });
  return id_of(space.keys[at < kept ? at : 0]);
}

// ---- top_k -------------------------------------------------------------------------------------

// Of the distance to the largest: 128 to a doubling of 1 + distance, the last for all beyond.
FORETOKEN_DEVICE std::uint32_t distance_bucket(float top, float logit) {
  const std::uint32_t bucket = (float_bits(1.0f + (top - logit)) - float_bits(1.0f)) >> 16;
  return bucket < draw_buckets ? bucket : draw_buckets - 1;
}

FORETOKEN_DEVICE std::int32_t draw_from_largest(const draw_row& row) {
  draw_space& space = row.space;
  const int wanted = space.how.top_k;
  if (wanted > draw_candidates) return drawn_by_host;
  clear_buckets(space);
  FORETOKEN_UNROLL_BY(8)
  for (int i = thread_index(); i < row.vocabulary; i += draw_threads) {
    atomic_add(&space.bucket.low[distance_bucket(row.top, row.logits[i])], 1u);
  }
  block_sync();
  const auto cut = static_cast<std::uint32_t>(
      find_cut(space, draw_buckets, static_cast<double>(wanted) - 0.5,
               [&](int b) { return static_cast<double>(space.bucket.low[b]); }));
  const int found =
      gather(row, [&](float logit) { return distance_bucket(row.top, logit) <= cut; });
  if (found > draw_candidates) return drawn_by_host;
  return draw_from_candidates(row, wanted, -1);
}

// ---- top_p without top_k -----------------------------------------------------------------------

// The host's buckets (model/sampling.cpp), the largest weights first.
constexpr int bucket_shift = 19;
constexpr int mass_buckets = (0x3F800000 >> bucket_shift) + 1;
static_assert(mass_buckets <= draw_buckets);

FORETOKEN_DEVICE int mass_bucket(float weight) {
  const int bucket = static_cast<int>(float_bits(weight) >> bucket_shift);
  return mass_buckets - 1 - (bucket < mass_buckets ? bucket : mass_buckets - 1);
}
FORETOKEN_DEVICE float least_weight(int bucket) {
  return bits_float(static_cast<std::uint32_t>(mass_buckets - 1 - bucket) << bucket_shift);
}

FORETOKEN_DEVICE void add_mass(draw_space& space, float weight) {
  const int bucket = mass_bucket(weight);
  const std::uint32_t mantissa = (float_bits(weight) & 0x7FFFFFu) | 0x800000u;
  atomic_add(&space.bucket.low[bucket], mantissa & ((1u << half_mantissa) - 1));
  atomic_add(&space.bucket.high[bucket], mantissa >> half_mantissa);
}
// Weights are 0 or normal numbers; those of one bucket have the exponent of its least.
FORETOKEN_DEVICE double mass_of(const draw_space& space, int bucket) {
  const double mantissas = static_cast<double>(space.bucket.high[bucket]) * (1 << half_mantissa) +
                           static_cast<double>(space.bucket.low[bucket]);
  const std::uint32_t exponent = float_bits(least_weight(bucket)) & 0x7F800000u;
  return mantissas * (static_cast<double>(bits_float(exponent)) * 0x1p-23);
}

FORETOKEN_DEVICE std::int32_t draw_from_nucleus(const draw_row& row) {
  draw_space& space = row.space;
  clear_buckets(space);
  weigh_all(row, [&](float weight) {
    if (weight > 0) add_mass(space, weight);
    return weight;
  });
  if (thread_index() == 0) {
    accumulate(space.sums, row.blocks(), INFINITY);
    space.total = space.sums[row.blocks() - 1];
  }
  block_sync();
  const double total = space.total;
  const double wanted = static_cast<double>(space.how.top_p) * total * (1 + 1e-9);
  const int cut = find_cut(space, mass_buckets, wanted, [&](int b) { return mass_of(space, b); });
  // Far below the least weight wanted the exponential is not asked; 0.01 is more than it errs.
  const float reach = space.how.temperature * (logf(least_weight(cut)) - 0.01f);
  const int found = gather(row, [&](float logit) {
    return logit - row.top >= reach && mass_bucket(row.weight(logit)) <= cut;
  });
  if (found > draw_candidates) return drawn_by_host;
  return draw_from_candidates(row, found, total);
}

// ---- the row -----------------------------------------------------------------------------------

// The first thread's is the row's.
FORETOKEN_DEVICE std::int32_t draw(draw_row row) {
  const draw_parameters& how = row.space.how;
  const std::uint64_t peak = find_peak(row);
  if (static_cast<std::uint32_t>(peak >> 32) == order_broken) return drawn_broken;
  if (!(how.temperature > 0)) return id_of(peak);
  row.top = logit_of(peak);
  if (how.top_k > 0 && how.top_k < row.vocabulary) return draw_from_largest(row);
  return how.top_p < 1 ? draw_from_nucleus(row) : draw_from_all(row);
}

FORETOKEN_KERNEL(draw_threads, 1) draw_rows(const draw_arguments given) {
  auto& space = *reinterpret_cast<draw_space*>(shared_memory());
  const int at = block_x();
  load_parameters(space, given.requests[at]);
  wait_for_predecessor();
  release_successor();
  const std::uint32_t number = number_of(given.end);
  block_sync();
  if (space.how.draws != 0) {
    const draw_row row{given.logits + wide(at) * wide(given.stride), given.vocabulary,
                       given.requests + at, space};
    adjust(row);
    block_sync();
    const std::int32_t id = draw(row);
    block_sync();
    restore(row);
    block_sync();
    if (thread_index() == 0) given.drawn[at] = {id, id >= 0 ? row.logits[id] : 0.0f};
  }
  tell_host(given.end, number, given.arrived, given.rows);
}

}  // namespace

status launch_draw(const launch_context& on, const draw_arguments& given) {
  if (given.rows < 1) return {};
  if (given.vocabulary > draw_vocabulary) return invalid("vocabulary", "too large to draw from");
  return launch(on, draw_rows, {given.rows, 1, 1}, draw_threads,
                static_cast<int>(sizeof(draw_space)), given);
}

}  // namespace foretoken::gpu
