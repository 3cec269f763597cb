// SPDX-License-Identifier: Apache-2.0
#include "gpu/spmd/block.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define FORETOKEN_FIBER_ASAN 1
#else
#define FORETOKEN_FIBER_ASAN 0
#endif

// Saves the callee's registers on the stack, leaves the stack pointer in *save and goes on at
// `load`.
extern "C" void foretoken_switch(void** save, void* load);
asm(R"(
.text
.globl foretoken_switch
.type foretoken_switch,@function
foretoken_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size foretoken_switch,.-foretoken_switch
)");

namespace foretoken::gpu::spmd {
namespace {

constexpr std::size_t stack_bytes = 64u << 10;
constexpr std::size_t guard_bytes = 4u << 10;
constexpr unsigned warp_lanes = 32;

enum class state { ready, at_barrier, at_part, at_shared, at_warp, done };

struct queued_copy {
  void* to;
  const void* from;
  std::size_t bytes;
};

struct fiber {
  void* stack_pointer = nullptr;
  char* stack = nullptr;
  void* fake_stack = nullptr;
  state now = state::done;
  unsigned index = 0;
  place where{"", 0};
  warp_function function = nullptr;
  void* brought = nullptr;
  unsigned part = 0;                            // the barrier it waits at,
  const std::uint64_t* shared = nullptr;        // or the one in shared memory
  std::vector<queued_copy> open;                // copies not yet committed
  std::deque<std::vector<queued_copy>> groups;  // committed, oldest first
};

// A barrier in shared memory, where its number of phases stands.
struct shared_barrier {
  std::uint64_t* at;
  unsigned count, missing;
  place where;  // of its initialisation
  std::uint64_t phases = 0;
};
// What the threads at a barrier of a part came with.
struct part_meeting {
  unsigned arrived = 0, threads = 0;
  place where{"", 0};
};

struct running_block {
  extent grid, block, index;
  unsigned threads = 0;
  unsigned char* shared = nullptr;
  std::size_t shared_bytes = 0;
  const std::function<void()>* body = nullptr;
  std::array<part_meeting, 16> parts{};
  std::vector<shared_barrier> barriers;
  std::vector<fiber> fibers;
  fiber* current = nullptr;
  void* scheduler_pointer = nullptr;
  const void* scheduler_stack = nullptr;
  std::size_t scheduler_bytes = 0;
  void* scheduler_fake = nullptr;
  std::string failure;
};

thread_local running_block* block_ = nullptr;
thread_local schedule order_ = schedule::forward;
thread_local unsigned seed_ = 1;
thread_local std::vector<fiber> pool_;  // stacks are kept from launch to launch

void poison([[maybe_unused]] void* at, [[maybe_unused]] std::size_t bytes) {
#if FORETOKEN_FIBER_ASAN
  ASAN_POISON_MEMORY_REGION(at, bytes);
#endif
}

void unpoison([[maybe_unused]] void* at, [[maybe_unused]] std::size_t bytes) {
#if FORETOKEN_FIBER_ASAN
  ASAN_UNPOISON_MEMORY_REGION(at, bytes);
#endif
}

// From a fiber to the scheduler, and back when the scheduler chooses it again.
void leave() {
  running_block* const block = block_;
  fiber* const me = block->current;
#if FORETOKEN_FIBER_ASAN
  __sanitizer_start_switch_fiber(me->now == state::done ? nullptr : &me->fake_stack,
                                 block->scheduler_stack, block->scheduler_bytes);
#endif
  foretoken_switch(&me->stack_pointer, block->scheduler_pointer);
#if FORETOKEN_FIBER_ASAN
  __sanitizer_finish_switch_fiber(me->fake_stack, &block->scheduler_stack, &block->scheduler_bytes);
#endif
}

extern "C" void foretoken_fiber_entry() {
#if FORETOKEN_FIBER_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &block_->scheduler_stack, &block_->scheduler_bytes);
#endif
  (*block_->body)();
  block_->current->now = state::done;
  leave();
  std::abort();  // nobody resumes a fiber that is done
}

void enter(fiber& next) {
  running_block* const block = block_;
  block->current = &next;
#if FORETOKEN_FIBER_ASAN
  __sanitizer_start_switch_fiber(&block->scheduler_fake, next.stack, stack_bytes);
#endif
  foretoken_switch(&block->scheduler_pointer, next.stack_pointer);
#if FORETOKEN_FIBER_ASAN
  __sanitizer_finish_switch_fiber(block->scheduler_fake, nullptr, nullptr);
#endif
}

void prepare(fiber& one, unsigned index) {
  if (one.stack == nullptr) {
    auto* const all =
        static_cast<char*>(mmap(nullptr, stack_bytes + guard_bytes, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (all == MAP_FAILED || mprotect(all, guard_bytes, PROT_NONE) != 0) std::abort();
    one.stack = all + guard_bytes;
  }
  unpoison(one.stack, stack_bytes);
  one.index = index;
  one.now = state::ready;
  one.fake_stack = nullptr;
  one.open.clear();
  one.groups.clear();
  // The first switch pops six registers and returns into the entry, the stack then as after a call:
  // 8 bytes off a multiple of 16, a return address (nobody's) on top.
  auto* top = reinterpret_cast<std::uint64_t*>(one.stack + stack_bytes);
  *--top = 0;
  *--top = reinterpret_cast<std::uint64_t>(&foretoken_fiber_entry);
  for (int i = 0; i < 6; ++i) *--top = 0;
  one.stack_pointer = top;
}

const char* state_name(state now) {
  switch (now) {
    case state::at_barrier: return "at a block barrier";
    case state::at_part: return "at a barrier of a part";
    case state::at_shared: return "at a barrier in shared memory";
    case state::at_warp: return "at a warp operation";
    case state::done: return "done";
    case state::ready: break;
  }
  return "ready";
}

std::string describe(const char* message, const fiber& one) {
  char text[400];
  std::snprintf(text, sizeof text, "%s: block (%u,%u,%u) thread %u %s %s:%d", message,
                block_->index.x, block_->index.y, block_->index.z, one.index, state_name(one.now),
                one.where.file, one.where.line);
  return text;
}

// Nobody can run: all live threads must stand at one barrier, none may have left.
bool open_barrier() {
  const fiber* first = nullptr;
  unsigned waiting = 0;
  for (const fiber& one : block_->fibers) {
    if (one.now == state::done) continue;
    if (one.now != state::at_barrier) {
      block_->failure = describe("deadlock", one);
      return false;
    }
    if (first == nullptr) first = &one;
    if (one.where.line != first->where.line) {
      block_->failure = describe("block barrier reached at different lines", one);
      return false;
    }
    ++waiting;
  }
  if (first == nullptr) {  // all done
    for (const shared_barrier& b : block_->barriers) {
      if (b.missing == b.count) continue;
      block_->fibers[0].where = b.where;
      block_->failure = describe("a barrier nobody opened", block_->fibers[0]);
    }
    return false;
  }
  if (waiting != block_->threads) {
    block_->failure = describe("block barrier after a thread has left", *first);
    return false;
  }
  for (fiber& one : block_->fibers) one.now = state::ready;
  return true;
}

void run_block(std::mt19937& random) {
  std::vector<unsigned> turns(block_->threads);
  std::iota(turns.begin(), turns.end(), 0u);
  if (order_ == schedule::reverse) std::reverse(turns.begin(), turns.end());
  for (;;) {
    bool moved = false;
    if (order_ == schedule::shuffled) std::shuffle(turns.begin(), turns.end(), random);
    for (const unsigned turn : turns) {
      if (block_->fibers[turn].now != state::ready) continue;
      enter(block_->fibers[turn]);
      if (!block_->failure.empty()) return;
      moved = true;
    }
    if (!moved && !open_barrier()) return;
  }
}

// In shared memory, and aligned to its size.
void require_shared(const void* at, std::size_t bytes, place here) {
  const auto offset = static_cast<const unsigned char*>(at) - block_->shared;
  if (offset < 0 || static_cast<std::size_t>(offset) + bytes > block_->shared_bytes) {
    fail("beyond shared memory", here);
  }
  if (reinterpret_cast<std::uintptr_t>(at) % bytes != 0) fail("not aligned", here);
}

shared_barrier& barrier_at(const std::uint64_t* at, place here) {
  const auto found = std::ranges::find(block_->barriers, at, &shared_barrier::at);
  if (found == block_->barriers.end()) fail("a barrier that nobody initialised", here);
  if (*at != found->phases) fail("a barrier that was written over", here);
  return *found;
}

}  // namespace

void use_schedule(schedule order, unsigned seed) {
  order_ = order;
  seed_ = seed;
}

std::string run(extent grid,
                extent block,
                std::size_t shared_bytes,
                const std::function<void()>& thread) {
  running_block running;
  running.grid = grid;
  running.block = block;
  running.threads = block.size();
  running.body = &thread;
  running.shared_bytes = shared_bytes;
  running.fibers = std::move(pool_);
  if (running.fibers.size() < running.threads) running.fibers.resize(running.threads);
  std::vector<fiber> spare(std::make_move_iterator(running.fibers.begin() + running.threads),
                           std::make_move_iterator(running.fibers.end()));
  running.fibers.resize(running.threads);
  block_ = &running;
  std::mt19937 random(seed_);
  std::vector<unsigned> blocks(grid.size());
  std::iota(blocks.begin(), blocks.end(), 0u);
  if (order_ == schedule::reverse) std::reverse(blocks.begin(), blocks.end());
  if (order_ == schedule::shuffled) std::shuffle(blocks.begin(), blocks.end(), random);
  for (const unsigned flat : blocks) {
    running.index = {flat % grid.x, flat / grid.x % grid.y, flat / grid.x / grid.y};
    const std::size_t bytes = std::max<std::size_t>(shared_bytes, 1);
    std::unique_ptr<unsigned char, void (*)(void*)> shared(
        static_cast<unsigned char*>(std::aligned_alloc(128, (bytes + 127) / 128 * 128)), std::free);
    std::memset(shared.get(), 0xFF, (bytes + 127) / 128 * 128);  // NaN in every format
    poison(shared.get() + shared_bytes, (bytes + 127) / 128 * 128 - shared_bytes);
    running.shared = shared.get();
    running.parts.fill({});
    running.barriers.clear();
    for (unsigned i = 0; i < running.threads; ++i) prepare(running.fibers[i], i);
    run_block(random);
    unpoison(shared.get(), (bytes + 127) / 128 * 128);
    if (!running.failure.empty()) break;
  }
  block_ = nullptr;
  pool_ = std::move(running.fibers);
  pool_.insert(pool_.end(), std::make_move_iterator(spare.begin()),
               std::make_move_iterator(spare.end()));
  return running.failure;
}

unsigned thread_index() {
  return block_->current->index;
}
extent block_index() {
  return block_->index;
}
extent grid_extent() {
  return block_->grid;
}
unsigned char* shared_memory() {
  return block_->shared;
}

void fail(const char* message, place here) {
  block_->current->where = here;
  block_->failure = describe(message, *block_->current);
  leave();
  std::abort();
}

void block_barrier(place here) {
  fiber* const me = block_->current;
  me->where = here;
  me->now = state::at_barrier;
  leave();
}

void part_barrier(unsigned id, unsigned threads, place here) {
  fiber* const me = block_->current;
  if (id < 1 || id >= block_->parts.size()) fail("a barrier that does not exist", here);
  part_meeting& meeting = block_->parts[id];
  if (meeting.arrived == 0) meeting = {0, threads, here};
  if (meeting.threads != threads || meeting.where.line != here.line) {
    fail("a barrier of a part reached at different places", here);
  }
  me->where = here;
  me->part = id;
  me->now = state::at_part;
  if (++meeting.arrived < threads) return leave();
  meeting.arrived = 0;
  for (fiber& one : block_->fibers) {
    if (one.now == state::at_part && one.part == id) one.now = state::ready;
  }
}

void barrier_init(std::uint64_t* at, unsigned count, place here) {
  require_shared(at, sizeof *at, here);
  if (count == 0) fail("a barrier without arrivals", here);
  if (std::ranges::find(block_->barriers, at, &shared_barrier::at) != block_->barriers.end()) {
    fail("a barrier initialised twice", here);
  }
  *at = 0;
  block_->barriers.push_back({at, count, count, here});
}

void barrier_arrive(std::uint64_t* at, place here) {
  shared_barrier& barrier = barrier_at(at, here);
  if (--barrier.missing > 0) return;
  barrier.missing = barrier.count;
  *at = ++barrier.phases;
  for (fiber& one : block_->fibers) {
    if (one.now == state::at_shared && one.shared == at) one.now = state::ready;
  }
}

void barrier_wait(const std::uint64_t* at, int parity, place here) {
  fiber* const me = block_->current;
  const std::uint64_t before = barrier_at(at, here).phases;
  if (before % 2 != static_cast<unsigned>(parity)) return;
  me->where = here;
  me->shared = at;
  me->now = state::at_shared;
  leave();
  if (barrier_at(at, here).phases > before + 1) fail("a wait that missed its phase", here);
}

// The last lane to come does the work of all.
void warp_rendezvous(warp_function function, void* brought, place here) {
  fiber* const me = block_->current;
  me->where = here;
  me->function = function;
  me->brought = brought;
  me->now = state::at_warp;
  fiber* const first = block_->fibers.data() + me->index / warp_lanes * warp_lanes;
  void* lanes[warp_lanes];
  for (unsigned lane = 0; lane < warp_lanes; ++lane) {
    fiber& other = first[lane];
    if (other.now == state::done) fail("a lane left before a warp operation", here);
    if (other.now != state::at_warp) return leave();
    if (other.function != function || other.where.line != here.line) {
      fail("lanes of a warp at different operations", here);
    }
    lanes[lane] = other.brought;
  }
  function(lanes);
  for (unsigned lane = 0; lane < warp_lanes; ++lane) first[lane].now = state::ready;
}

void copy_async(void* shared, const void* global, std::size_t bytes, place here) {
  require_shared(shared, bytes, here);
  if (reinterpret_cast<std::uintptr_t>(global) % bytes != 0) fail("not aligned", here);
  poison(shared, bytes);
  block_->current->open.push_back({shared, global, bytes});
}

void copy_async_commit() {
  fiber* const me = block_->current;
  me->groups.push_back(std::move(me->open));
  me->open.clear();
}

void copy_async_wait(int groups_left) {
  fiber* const me = block_->current;
  while (me->groups.size() > static_cast<std::size_t>(groups_left)) {
    for (const queued_copy& copy : me->groups.front()) {
      unpoison(copy.to, copy.bytes);
      std::memcpy(copy.to, copy.from, copy.bytes);
    }
    me->groups.pop_front();
  }
}

}  // namespace foretoken::gpu::spmd
