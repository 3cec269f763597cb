// SPDX-License-Identifier: Apache-2.0
#pragma once
// Runs a kernel on the processor, one block at a time: every thread of the block is a fiber, a
// barrier lets the others run, a warp operation waits until its 32 lanes are there. One OS thread a
// launch.
//
// What it finds that a device may hide: a barrier or wait that is missing (the three schedules
// order threads and blocks differently; shared memory starts as NaN; asynchronous copies happen
// only at their wait), shared memory out of bounds (exact size, red zones under the address
// sanitizer), lanes that leave or diverge before a warp operation, barriers reached at different
// lines, deadlock. Not emulated: clusters, bulk copies, wgmma, and races between warps that no
// schedule here orders badly.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

namespace foretoken::gpu::spmd {

struct extent {
  unsigned x = 1, y = 1, z = 1;
  unsigned size() const { return x * y * z; }
};

enum class schedule { forward, reverse, shuffled };
// How launches on this OS thread order threads and blocks. The seed is for `shuffled`.
void use_schedule(schedule order, unsigned seed = 1);

// Runs all blocks of the grid. The failure of the first broken block, or an empty string.
std::string run(extent grid,
                extent block,
                std::size_t shared_bytes,
                const std::function<void()>& thread);

// ---- for the thread that runs ------------------------------------------------------------------

// A caller's place in the source; filled by default arguments.
struct place {
  const char* file;
  int line;
};
#define FORETOKEN_HERE ::foretoken::gpu::spmd::place here = {__builtin_FILE(), __builtin_LINE()}

unsigned thread_index();
extent block_index();
extent grid_extent();
unsigned char* shared_memory();

void block_barrier(place here);
// Opens when `threads` threads have come. id 1..15.
void part_barrier(unsigned id, unsigned threads, place here);

// Barriers in shared memory, see device.cuh.
void barrier_init(std::uint64_t* at, unsigned count, place here);
void barrier_arrive(std::uint64_t* at, place here);
void barrier_wait(const std::uint64_t* at, int parity, place here);

// What a warp operation gets from its 32 lanes: one pointer each to what they brought.
using warp_function = void (*)(void* const lanes[32]);
void warp_rendezvous(warp_function function, void* brought, place here);

// Copies are queued and happen at the wait; until then the target is not to be touched.
void copy_async(void* shared, const void* global, std::size_t bytes, place here);
void copy_async_commit();
void copy_async_wait(int groups_left);

// Ends the block with a message: for wrong use of an operation.
[[noreturn]] void fail(const char* message, place here);

// ---- warp operations of device.cuh
// ---------------------------------------------------------------

std::uint32_t shuffle(std::uint32_t value, unsigned source, place here);
void matrix_product(float (&d)[4],
                    const std::uint32_t (&a)[4],
                    const std::uint32_t (&b)[2],
                    place here);
void load_matrices(std::uint32_t* out, int count, const void* row, place here);
std::uint32_t transpose(std::uint32_t pair, place here);

}  // namespace foretoken::gpu::spmd
