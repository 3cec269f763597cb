// SPDX-License-Identifier: Apache-2.0
// Of every row of logits: log sum exp and the best few, ties to the lower id.
//
// Parts of 1,024 logits: a block finds its largest, the sum of exp(v - largest) and its best: each
// warp a sorted list, one round of comparisons an entry; one warp merges the lists. So does a warp
// with the parts of a row: with few rows in the last of the row's blocks, else in a second launch.
// The last of all rows tells the host, where one waits. Sums have fixed orders: thread, warp tree,
// warps ascending, parts in lane order. Bytes: 4 vocabulary a row, once.
//
// Where only the best id is wanted the head has found it (head.cu): a warp a row reads its places.

#include "gpu/arrival.cuh"
#include "gpu/launch.cuh"
#include "gpu/logit_order.cuh"
#include "gpu/numerics.cuh"

namespace foretoken::gpu {
namespace {

constexpr int part_logits = 1024;
constexpr int digest_threads = 256;
constexpr int each = part_logits / digest_threads;
constexpr int digest_warps = digest_threads / 32;
constexpr int floats_bytes = 2 * digest_warps * 4;  // bytes: two values a warp
// Rows up to which the parts' own launch merges them: a fence and a counter a block cost less than
// a launch then (head and digest of SmolLM2 at 8 rows 38.8 -> 37.2 us, at 64 55.8 -> 61.9; H100,
// 2026-11-24).
constexpr int merge_rows_max = 8;

// A logit in an order-preserving form, and where it stands. id -1: none.
struct alignas(8) candidate {
  std::uint32_t order;
  std::int32_t id;
};

struct alignas(16) part_head {
  float largest, sum;
  std::uint32_t finite, padding;
};

// Scratch: 16 bytes, whose first word counts rows that have arrived; then a record a row, always at
// the same place, so that counters stay zero between launches of any size: 16 bytes, whose first
// word counts parts, then the places of the row's best, then [parts] heads, then [parts][top]
// candidates.
constexpr std::size_t records_at = 16;  // in the scratch
constexpr std::size_t places_at = 16;   // in a record
constexpr std::size_t heads_at = places_at + best_places * sizeof(std::uint64_t);
constexpr int parts_of(int vocabulary) {
  return (vocabulary + part_logits - 1) / part_logits;
}
constexpr std::size_t record_bytes(int parts) {
  return heads_at + wide(parts) * (sizeof(part_head) + digest_top * sizeof(candidate));
}

struct digest_job {
  digest_arguments given;
  int parts;
  bool merges;  // the last block of a row, in the launch of the parts
  FORETOKEN_DEVICE std::uint32_t* rows_arrived() const {
    return static_cast<std::uint32_t*>(given.scratch);
  }
  FORETOKEN_DEVICE unsigned char* record(int row) const {
    return static_cast<unsigned char*>(given.scratch) + records_at +
           wide(row) * record_bytes(parts);
  }
  FORETOKEN_DEVICE std::uint32_t* parts_arrived(int row) const {
    return reinterpret_cast<std::uint32_t*>(record(row));
  }
  FORETOKEN_DEVICE part_head* heads(int row) const {
    return reinterpret_cast<part_head*>(record(row) + heads_at);
  }
  FORETOKEN_DEVICE candidate* candidates(int row) const {
    return reinterpret_cast<candidate*>(heads(row) + parts);
  }
};

FORETOKEN_DEVICE bool better(const candidate& a, const candidate& b) {
  if (a.id < 0 || b.id < 0) return b.id < 0 && a.id >= 0;
  return a.order > b.order || (a.order == b.order && a.id < b.id);
}

// The best of the warp, in every lane.
FORETOKEN_DEVICE candidate warp_best(const candidate& mine) {
  const std::uint32_t order = warp_largest(mine.id >= 0 ? mine.order : 0);
  const bool among = mine.id >= 0 && mine.order == order;
  const std::uint32_t id = warp_least(among ? static_cast<std::uint32_t>(mine.id) : 0xFFFFFFFFu);
  return {order, static_cast<std::int32_t>(id)};
}

// Lists of `top` candidates, best first, one behind the other, and how many of each are taken.
struct sorted_lists {
  candidate* all;
  unsigned char* taken;
  int count, top;
  FORETOKEN_DEVICE sorted_lists(int lists, int size)
      : all(reinterpret_cast<candidate*>(shared_memory() + floats_bytes)),
        taken(reinterpret_cast<unsigned char*>(all + wide(lists) * wide(size))),
        count(lists),
        top(size) {}
};
constexpr int lists_bytes(int lists, int top) {
  return lists * (top * static_cast<int>(sizeof(candidate)) + 1);
}

// The best `top` of all lists, by one warp. A lane looks after every 32nd list; only the lane whose
// candidate was the best looks for another one.
template <class Take>
FORETOKEN_DEVICE void merge_lists(const sorted_lists& lists, Take take) {
  const int lane = thread_index() % 32;
  for (int l = lane; l < lists.count; l += 32) lists.taken[l] = 0;
  candidate mine{};
  int from = 0;
  const auto look = [&] {
    mine = {0, -1};
    for (int l = lane; l < lists.count; l += 32) {
      if (lists.taken[l] == lists.top) continue;
      const candidate here = lists.all[wide(l) * wide(lists.top) + lists.taken[l]];
      if (!better(here, mine)) continue;
      mine = here;
      from = l;
    }
  };
  look();
  for (int round = 0; round < lists.top; ++round) {
    const candidate best = warp_best(mine);
    take(round, best);
    if (mine.id >= 0 && mine.id == best.id) {
      ++lists.taken[from];
      look();
    }
  }
}

// A block's part of its row.
FORETOKEN_DEVICE void digest_part(const digest_job& job, int row) {
  auto* const floats = reinterpret_cast<float*>(shared_memory());
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
    if (there && !is_finite(values[i])) broken = 1;
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
  if (thread_index() == 0) {
    sum = 0;
    for (int w = 0; w < digest_warps; ++w) sum += floats[w];
    job.heads(row)[block_x()] = {largest, sum, broken > 0 ? 0u : 1u, 0u};
  }
  const int top = job.given.top;
  const sorted_lists lists(digest_warps, top);
  for (int round = 0; round < top; ++round) {
    candidate best{0, -1};
    FORETOKEN_UNROLL
    for (int i = 0; i < each; ++i) {
      if (better(mine[i], best)) best = mine[i];
    }
    best = warp_best(best);
    FORETOKEN_UNROLL
    for (int i = 0; i < each; ++i) {
      if (mine[i].id == best.id) mine[i].id = -1;
    }
    if (thread_index() % 32 == 0) lists.all[warp * top + round] = best;
  }
  block_sync();
  if (warp > 0) return;
  merge_lists(lists, [&](int round, const candidate& best) {
    if (thread_index() == 0) job.candidates(row)[block_x() * top + round] = best;
  });
}

// A row's part that another block wrote.
FORETOKEN_DEVICE part_head head_of(const part_head* at) {
  const u32x4 v = load_shared_device(reinterpret_cast<const u32x4*>(at));
  return {bits_float(v.x), bits_float(v.y), v.z, v.w};
}

// A lane's heads, loaded together: 128 parts are a vocabulary of 131,072; more are read twice.
struct held_heads {
  static constexpr int count = 4;
  part_head at[count];
  // Parts that are not there change neither the largest nor the sum.
  FORETOKEN_DEVICE held_heads(const part_head* heads, int parts) {
    FORETOKEN_UNROLL
    for (int i = 0; i < count; ++i) {
      const int p = thread_index() + 32 * i;
      at[i] = p < parts ? head_of(heads + p) : part_head{-3.4e38f, 0, 1, 0};
    }
  }
};

// One warp's work: the sum over parts, in lane order.
FORETOKEN_DEVICE void merge_sums(const digest_job& job,
                                 const part_head* heads,
                                 const held_heads& held,
                                 logits_digest& out,
                                 bool& finite) {
  constexpr int beyond = 32 * held_heads::count;
  float largest = -3.4e38f, broken = 0;
  const auto see = [&](const part_head& here) {
    largest = larger(largest, here.largest);
    if (here.finite == 0) broken = 1;
  };
  FORETOKEN_UNROLL
  for (int i = 0; i < held.count; ++i) see(held.at[i]);
  for (int p = thread_index() + beyond; p < job.parts; p += 32) see(head_of(heads + p));
  largest = warp_max(largest);
  finite = !(warp_max(broken) > 0);
  float sum = 0;
  const auto add = [&](const part_head& here) {
    sum = fused_multiply_add(here.sum, natural_exp(here.largest - largest), sum);
  };
  FORETOKEN_UNROLL
  for (int i = 0; i < held.count; ++i) add(held.at[i]);
  for (int p = thread_index() + beyond; p < job.parts; p += 32) add(head_of(heads + p));
  sum = warp_sum(sum);
  if (thread_index() == 0) out.log_sum_exp = largest + logf(sum);
}

// All parts of a row are there.
FORETOKEN_DEVICE void merge_parts(const digest_job& job, int row) {
  const int top = job.given.top;
  const auto* const candidates = reinterpret_cast<const u32x2*>(job.candidates(row));
  const sorted_lists lists(job.parts, top);
  const part_head* const heads = job.heads(row);
  const held_heads held(heads, thread_index() < 32 ? job.parts : 0);
  for (int i = thread_index(); i < job.parts * top; i += digest_threads) {
    const u32x2 v = load_shared_device(candidates + i);
    lists.all[i] = {v.x, static_cast<std::int32_t>(v.y)};
  }
  block_sync();
  if (thread_index() >= 32) return;
  logits_digest& out = job.given.digests[row];
  bool finite = true;
  merge_sums(job, heads, held, out, finite);
  merge_lists(lists, [&](int round, const candidate& best) {
    if (thread_index() != 0) return;
    const bool there = finite && best.id >= 0;
    if (round == 0 || there) out.count = there ? round + 1 : 0;
    out.id[round] = there ? best.id : -1;
    out.logit[round] = there ? from_ordered(best.order) : 0.0f;
    if (round == 0 && job.given.token != nullptr) job.given.token[row] = there ? best.id : 0;
  });
}

FORETOKEN_DEVICE void tell_host(const digest_job& job, std::uint32_t number) {
  tell_host(job.given.end, number, job.rows_arrived(), job.given.rows);
}
// All parts of the row; in the block's shared memory there is room for their lists.
FORETOKEN_DEVICE void finish_row(const digest_job& job, int row, std::uint32_t number) {
  merge_parts(job, row);
  tell_host(job, number);
}

FORETOKEN_KERNEL(digest_threads, 1) digest_parts(const digest_job job) {
  wait_for_predecessor();
  release_successor();
  const int row = block_y();
  const std::uint32_t number = number_of(job.given.end);
  digest_part(job, row);
  if (!job.merges) return;
  if (!last_to_arrive(job.parts_arrived(row), job.parts)) return;
  block_sync();
  finish_row(job, row, number);
}

FORETOKEN_KERNEL(digest_threads, 1) digest_rows(const digest_job job) {
  wait_for_predecessor();
  release_successor();
  finish_row(job, block_x(), number_of(job.given.end));
}

// One warp a row: the best of its places, which are empty again afterwards.
FORETOKEN_KERNEL(32, 1) digest_best(const digest_job job) {
  wait_for_predecessor();
  release_successor();
  const int row = block_x();
  const std::uint32_t number = number_of(job.given.end);
  static_assert(best_places == 32);
  auto* const place = reinterpret_cast<u32x2*>(job.record(row) + places_at) + thread_index();
  const u32x2 mine = load_shared_device(place);
  *place = u32x2{0, 0};
  const candidate best = warp_best({mine.y, mine.y == 0 ? -1 : static_cast<std::int32_t>(~mine.x)});
  if (thread_index() == 0) {
    const bool there = best.id >= 0 && best.order != order_broken;
    logits_digest& out = job.given.digests[row];
    out.count = there ? 1 : 0;
    out.id[0] = there ? best.id : -1;
    out.logit[0] = there ? from_ordered(best.order) : 0.0f;
    if (job.given.token != nullptr) job.given.token[row] = there ? best.id : 0;
  }
  tell_host(job, number);
}

}  // namespace

std::size_t digest_scratch_bytes(int rows, int vocabulary) {
  return records_at + wide(rows) * record_bytes(parts_of(vocabulary));
}

std::uint32_t* rows_arrived_in(void* digest_scratch) {
  return static_cast<std::uint32_t*>(digest_scratch);
}

best_logits best_logits_in(void* digest_scratch, int vocabulary) {
  auto* const first = static_cast<unsigned char*>(digest_scratch) + records_at + places_at;
  return {reinterpret_cast<std::uint64_t*>(first),
          record_bytes(parts_of(vocabulary)) / sizeof(std::uint64_t), vocabulary};
}

status launch_digest(const launch_context& on, const digest_arguments& given) {
  if (given.rows < 1) return {};
  if (given.top < 0 || given.top > digest_top) return invalid("top", "out of range");
  const digest_job job{given, parts_of(given.vocabulary), given.rows <= merge_rows_max};
  if (given.top == 0) return launch(on, digest_best, {given.rows, 1, 1}, 32, 16, job);
  const int part = floats_bytes + lists_bytes(digest_warps, given.top);
  const int row = floats_bytes + lists_bytes(job.parts, given.top);
  FORETOKEN_TRY(launch(on, digest_parts, {job.parts, given.rows, 1}, digest_threads,
                       job.merges && row > part ? row : part, job));
  if (job.merges) return {};
  launch_context next = on;
  next.dependent = true;
  return launch(next, digest_rows, {given.rows, 1, 1}, digest_threads, row, job);
}

}  // namespace foretoken::gpu
