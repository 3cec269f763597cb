// SPDX-License-Identifier: Apache-2.0
// Of every row of logits: log sum exp and the best few, ties to the lower id.
//
// Two kernels. Parts of 1,024 logits: a block finds its largest, the sum of exp(v - largest) and
// its best, one round of comparisons each. Rows: a block merges the parts, whose lists are sorted.
// Orders are fixed: thread, warp tree, warps ascending, parts in lane order. Bytes: 4 vocabulary a
// row, once.

#include "gpu/launch.cuh"
#include "gpu/numerics.cuh"

namespace foretoken::gpu {
namespace {

constexpr int part_logits = 1024;
constexpr int digest_threads = 256;
constexpr int each = part_logits / digest_threads;
constexpr int digest_warps = digest_threads / 32;

// A logit in an order-preserving form, and where it stands. id -1: none.
struct candidate {
  std::uint32_t order;
  std::int32_t id;
};

struct part_head {
  float largest, sum;
  std::uint32_t finite, padding;
};

struct digest_job {
  digest_arguments given;
  int parts;
  part_head* heads;       // [rows][parts]
  candidate* candidates;  // [rows][parts][top]
};

FORETOKEN_DEVICE std::uint32_t ordered_bits(float v) {
  const std::uint32_t bits = float_bits(v);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}
FORETOKEN_DEVICE float from_ordered(std::uint32_t order) {
  return bits_float((order & 0x80000000u) != 0 ? order & 0x7FFFFFFFu : ~order);
}
FORETOKEN_DEVICE bool better(const candidate& a, const candidate& b) {
  if (a.id < 0 || b.id < 0) return b.id < 0 && a.id >= 0;
  return a.order > b.order || (a.order == b.order && a.id < b.id);
}

FORETOKEN_DEVICE candidate warp_best(candidate mine) {
  FORETOKEN_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) {
    const candidate other{
        shuffle_xor(mine.order, mask),
        static_cast<std::int32_t>(shuffle_xor(static_cast<std::uint32_t>(mine.id), mask))};
    if (better(other, mine)) mine = other;
  }
  return mine;
}

// The best of the block, in every thread. `scratch` has room for two rounds' warps, taken in turns.
FORETOKEN_DEVICE candidate block_best(candidate mine, candidate* scratch, int round) {
  candidate* const here = scratch + round % 2 * digest_warps;
  mine = warp_best(mine);
  if (thread_index() % 32 == 0) here[thread_index() / 32] = mine;
  block_sync();
  candidate best = here[0];
  for (int w = 1; w < digest_warps; ++w) {
    if (better(here[w], best)) best = here[w];
  }
  return best;
}

constexpr int digest_shared = 2 * digest_warps * static_cast<int>(sizeof(candidate)) +
                              2 * digest_warps * static_cast<int>(sizeof(float));

FORETOKEN_KERNEL(digest_threads, 1) digest_parts(const digest_job job) {
  auto* const scratch = reinterpret_cast<candidate*>(shared_memory());
  auto* const floats = reinterpret_cast<float*>(scratch + 2 * digest_warps);
  wait_for_predecessor();
  release_successor();
  const int row = block_y();
  const int first = block_x() * part_logits;
  const float* const logits = job.given.logits + wide(row) * wide(job.given.stride);
  candidate mine[each];
  float values[each];
  float largest = -3.4e38f, broken = 0;
  FORETOKEN_UNROLL
  for (int i = 0; i < each; ++i) {
    const int id = first + i * digest_threads + thread_index();
    const bool there = id < job.given.vocabulary;
    values[i] = there ? logits[id] : -3.4e38f;
    if (there && !(fabsf(values[i]) <= 3.4028235e38f)) broken = 1;
    mine[i] = {ordered_bits(values[i]), there ? id : -1};
    largest = larger(largest, values[i]);
  }
  const int warp = thread_index() / 32;
  largest = warp_max(largest);
  broken = warp_max(broken);
  if (thread_index() % 32 == 0) {
    floats[warp] = largest;
    floats[digest_warps + warp] = broken;
  }
  block_sync();
  for (int w = 0; w < digest_warps; ++w) {
    largest = larger(largest, floats[w]);
    broken = larger(broken, floats[digest_warps + w]);
  }
  block_sync();
  float sum = 0;
  FORETOKEN_UNROLL
  for (int i = 0; i < each; ++i) {
    if (mine[i].id >= 0) sum += natural_exp(values[i] - largest);
  }
  sum = warp_sum(sum);
  if (thread_index() % 32 == 0) floats[warp] = sum;
  block_sync();
  const std::size_t part = wide(row) * wide(job.parts) + wide(block_x());
  if (thread_index() == 0) {
    sum = 0;
    for (int w = 0; w < digest_warps; ++w) sum += floats[w];
    job.heads[part] = {largest, sum, broken > 0 ? 0u : 1u, 0u};
  }
  for (int round = 0; round < job.given.top; ++round) {
    candidate best{0, -1};
    FORETOKEN_UNROLL
    for (int i = 0; i < each; ++i) {
      if (better(mine[i], best)) best = mine[i];
    }
    best = block_best(best, scratch, round);
    FORETOKEN_UNROLL
    for (int i = 0; i < each; ++i) {
      if (mine[i].id == best.id) mine[i].id = -1;
    }
    if (thread_index() == 0) {
      job.candidates[part * wide(job.given.top) + wide(round)] = best;
    }
  }
}

// One warp's work: the sum over parts, in lane order.
FORETOKEN_DEVICE void merge_sums(const digest_job& job,
                                 const part_head* heads,
                                 logits_digest& out,
                                 bool& finite) {
  const int lane = thread_index() % 32;
  float largest = -3.4e38f, broken = 0;
  for (int p = lane; p < job.parts; p += 32) {
    largest = larger(largest, heads[p].largest);
    if (heads[p].finite == 0) broken = 1;
  }
  largest = warp_max(largest);
  finite = !(warp_max(broken) > 0);
  float sum = 0;
  for (int p = lane; p < job.parts; p += 32) {
    sum = fused_multiply_add(heads[p].sum, natural_exp(heads[p].largest - largest), sum);
  }
  sum = warp_sum(sum);
  if (thread_index() == 0) out.log_sum_exp = largest + logf(sum);
}

FORETOKEN_KERNEL(digest_threads, 1) digest_rows(const digest_job job) {
  auto* const scratch = reinterpret_cast<candidate*>(shared_memory());
  wait_for_predecessor();
  release_successor();
  const int row = block_x();
  const int top = job.given.top;
  const std::size_t first_part = wide(row) * wide(job.parts);
  const part_head* const heads = job.heads + first_part;
  auto* const lists = reinterpret_cast<candidate*>(shared_memory() + digest_shared);
  for (int i = thread_index(); i < job.parts * top; i += digest_threads) {
    lists[i] = job.candidates[first_part * wide(top) + wide(i)];
  }
  logits_digest& out = job.given.digests[row];
  bool finite = true;
  if (thread_index() < 32) merge_sums(job, heads, out, finite);
  block_sync();
  // A thread looks after part t of every 256; its lists are short, so it walks them all.
  int taken = 0;  // of the thread's own list (parts beyond the first 256 are read in full)
  candidate before{0xFFFFFFFFu, -1};
  for (int round = 0; round < top; ++round) {
    candidate best{0, -1};
    for (int p = thread_index(); p < job.parts; p += digest_threads) {
      const bool own = p == thread_index();
      for (int i = own ? taken : 0; i < top; ++i) {
        const candidate here = lists[wide(p) * wide(top) + wide(i)];
        if (here.id < 0) break;
        if (round > 0 && !better(before, here)) {
          if (own) taken = i + 1;
          continue;
        }
        if (better(here, best)) best = here;
        break;
      }
    }
    best = block_best(best, scratch, round);
    before = best;
    if (thread_index() == 0) {
      const bool there = finite && best.id >= 0;
      if (round == 0 || there) out.count = there ? round + 1 : 0;
      out.id[round] = there ? best.id : -1;
      out.logit[round] = there ? from_ordered(best.order) : 0.0f;
      if (round == 0 && job.given.token != nullptr) job.given.token[row] = there ? best.id : 0;
    }
  }
}

constexpr std::size_t aligned(std::size_t bytes) {
  return (bytes + 255) / 256 * 256;
}

}  // namespace

std::size_t digest_scratch_bytes(int rows, int vocabulary) {
  const auto parts = wide((vocabulary + part_logits - 1) / part_logits);
  return wide(rows) * parts * sizeof(part_head) + 256 +
         wide(rows) * parts * digest_top * sizeof(candidate);
}

status launch_digest(const launch_context& on, const digest_arguments& given) {
  if (given.rows < 1) return {};
  if (given.top < 1 || given.top > digest_top) return invalid("top", "out of range");
  digest_job job{given, (given.vocabulary + part_logits - 1) / part_logits, nullptr, nullptr};
  job.heads = static_cast<part_head*>(given.scratch);
  const std::size_t heads = wide(given.rows) * wide(job.parts) * sizeof(part_head);
  job.candidates =
      reinterpret_cast<candidate*>(static_cast<std::byte*>(given.scratch) + aligned(heads));
  FORETOKEN_TRY(
      launch(on, digest_parts, {job.parts, given.rows, 1}, digest_threads, digest_shared, job));
  launch_context next = on;
  next.dependent = true;
  const int lists = job.parts * given.top * static_cast<int>(sizeof(candidate));
  return launch(next, digest_rows, {given.rows, 1, 1}, digest_threads, digest_shared + lists, job);
}

}  // namespace foretoken::gpu
