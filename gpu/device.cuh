// SPDX-License-Identifier: Apache-2.0
#pragma once
// The language of the kernels: everything a kernel may use beyond plain C++. Each function exists
// twice, as an instruction (nvcc) and as its emulation (any host compiler, gpu/spmd); kernels
// contain no inline PTX and no other header. Rules: full warps only at warp operations, no early
// return before a barrier, all shared memory is one dynamic block, parameters are one plain struct.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#define FORETOKEN_DEVICE __device__ __forceinline__
#define FORETOKEN_KERNEL(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
#define FORETOKEN_UNROLL _Pragma("unroll")
#define FORETOKEN_PRAGMA(text) _Pragma(#text)
#define FORETOKEN_UNROLL_BY(n) FORETOKEN_PRAGMA(unroll n)
#define FORETOKEN_BOTH __host__ __device__ __forceinline__
#define FORETOKEN_PLACE
#define FORETOKEN_PLACE_ONLY
#else
#include "base/half.hpp"
#include "gpu/spmd/block.hpp"
#define FORETOKEN_DEVICE inline
#define FORETOKEN_KERNEL(threads, blocks) void
#define FORETOKEN_UNROLL
#define FORETOKEN_UNROLL_BY(n)
#define FORETOKEN_BOTH inline
#define FORETOKEN_PLACE , FORETOKEN_HERE
#define FORETOKEN_PLACE_ONLY FORETOKEN_HERE
#endif

namespace foretoken::gpu {

FORETOKEN_BOTH constexpr std::size_t wide(int n) {
  return static_cast<std::size_t>(n);
}

struct alignas(8) u32x2 {
  std::uint32_t x, y;
};
struct alignas(16) u32x4 {
  std::uint32_t x, y, z, w;
};
struct alignas(8) f32x2 {
  float x, y;
};
struct alignas(16) f32x4 {
  float x, y, z, w;
};

// A barrier in shared memory (mbarrier): `count` arrivals end its phase and begin the next. What a
// thread did before it arrived is seen by those who have waited for the phase's end; parity: the
// number of the phase modulo 2. Initialised by one thread, before a block_sync. Waits: full warps.
using barrier = std::uint64_t;

#if defined(__CUDACC__)

FORETOKEN_DEVICE int thread_index() {
  return static_cast<int>(threadIdx.x);
}
FORETOKEN_DEVICE int block_x() {
  return static_cast<int>(blockIdx.x);
}
FORETOKEN_DEVICE int block_y() {
  return static_cast<int>(blockIdx.y);
}
FORETOKEN_DEVICE int block_z() {
  return static_cast<int>(blockIdx.z);
}
FORETOKEN_DEVICE int grid_x() {
  return static_cast<int>(gridDim.x);
}

extern __shared__ __align__(1024) unsigned char foretoken_shared[];
FORETOKEN_DEVICE unsigned char* shared_memory() {
  return foretoken_shared;
}

FORETOKEN_DEVICE void block_sync() {
  __syncthreads();
}
FORETOKEN_DEVICE void warp_sync() {
  __syncwarp();
}
// Barriers of some of a block's warps, `Threads` threads in all, at one place of the code:
// id 1..15.
template <int Threads>
FORETOKEN_DEVICE void part_sync(int id) {
  asm volatile("bar.sync %0,%1;" ::"r"(id), "n"(Threads) : "memory");
}
FORETOKEN_DEVICE std::uint32_t shuffle(std::uint32_t value, int lane) {
  return __shfl_sync(0xFFFFFFFFu, value, lane);
}
FORETOKEN_DEVICE float shuffle_xor(float value, int mask) {
  return __shfl_xor_sync(0xFFFFFFFFu, value, mask);
}
FORETOKEN_DEVICE std::uint32_t shuffle_xor(std::uint32_t value, int mask) {
  return __shfl_xor_sync(0xFFFFFFFFu, value, mask);
}
FORETOKEN_DEVICE std::uint32_t warp_largest(std::uint32_t value) {
  return __reduce_max_sync(0xFFFFFFFFu, value);
}
FORETOKEN_DEVICE std::uint32_t warp_least(std::uint32_t value) {
  return __reduce_min_sync(0xFFFFFFFFu, value);
}

FORETOKEN_DEVICE std::uint32_t float_bits(float x) {
  return __float_as_uint(x);
}
FORETOKEN_DEVICE float bits_float(std::uint32_t x) {
  return __uint_as_float(x);
}

// d += a b: m16n8k16, f16 into f32
FORETOKEN_DEVICE void mma(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  // volatile: a plain asm may be moved into a branch that only some lanes of the warp take.
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},"
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
FORETOKEN_DEVICE std::uint32_t shared_address(const void* shared) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
}

FORETOKEN_DEVICE void barrier_init(barrier* b, int count) {
  asm volatile("mbarrier.init.shared.b64 [%0],%1;" ::"r"(shared_address(b)), "r"(count) : "memory");
}
FORETOKEN_DEVICE void barrier_arrive(barrier* b) {
  asm volatile(
      "{ .reg .b64 phase; mbarrier.arrive.shared.b64 phase,[%0]; }" ::"r"(shared_address(b))
      : "memory");
}
// Acquires at the scope of the block. (A cluster's would throw away the first-level cache at every
// wait.)
FORETOKEN_DEVICE void barrier_wait(barrier* b, int parity) {
  asm volatile(
#if __CUDA_ARCH__ >= 900
      "{ .reg .pred p; L%=: mbarrier.try_wait.parity.shared::cta.b64 p,[%0],%1;"
#else
      "{ .reg .pred p; L%=: mbarrier.test_wait.parity.shared.b64 p,[%0],%1;"
#endif
      " @p bra D%=; bra L%=; D%=: }" ::"r"(shared_address(b)),
      "r"(parity)
      : "memory");
  __syncwarp();  // lanes may leave the loop apart, and would stay apart
}

// Four 8 x 8 matrices of 16-bit values; lane 8m + r gives the address of row r of matrix m.
FORETOKEN_DEVICE void load_matrices_4(std::uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3},[%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
FORETOKEN_DEVICE void load_matrices_2(std::uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1},[%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}
// Transposes the 8 x 8 matrix of 16-bit values whose row l/4, columns 2(l%4)+{0,1} lane l holds.
FORETOKEN_DEVICE std::uint32_t transpose_8x8(std::uint32_t pair) {
  std::uint32_t out;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0,%1;" : "=r"(out) : "r"(pair));
  return out;
}

FORETOKEN_DEVICE void copy_async_16(void* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0],[%1],16;" ::"r"(shared_address(shared)), "l"(global)
               : "memory");
}
// 4 or 8 bytes
template <int Bytes>
FORETOKEN_DEVICE void copy_async_small(void* shared, const void* global) {
  asm volatile("cp.async.ca.shared.global [%0],[%1],%2;" ::"r"(shared_address(shared)), "l"(global),
               "n"(Bytes)
               : "memory");
}
FORETOKEN_DEVICE void copy_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int GroupsLeft>
FORETOKEN_DEVICE void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(GroupsLeft) : "memory");
}

// One line of 128 bytes into the L2 cache. (The bulk form is issued lane by lane, 250 cycles each.)
FORETOKEN_DEVICE void prefetch_line(const void* global) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(global));
}
// What another block wrote in this launch: past the first-level cache.
FORETOKEN_DEVICE float load_shared_device(const float* p) {
  return __ldcg(p);
}
FORETOKEN_DEVICE u32x2 load_shared_device(const u32x2* p) {
  const uint2 v = __ldcg(reinterpret_cast<const uint2*>(p));
  return {v.x, v.y};
}
FORETOKEN_DEVICE u32x4 load_shared_device(const u32x4* p) {
  const uint4 v = __ldcg(reinterpret_cast<const uint4*>(p));
  return {v.x, v.y, v.z, v.w};
}

// Pinned host memory: read anew each time; written so that a host thread that sees the value sees
// all that was written before.
FORETOKEN_DEVICE u32x4 load_host_16(const u32x4* p) {
  u32x4 v;
  asm volatile("ld.volatile.global.v4.u32 {%0,%1,%2,%3},[%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p)
               : "memory");
  return v;
}
FORETOKEN_DEVICE void store_release_host(std::uint32_t* p, std::uint32_t value) {
  asm volatile("fence.acq_rel.sys; st.release.sys.global.u32 [%0],%1;" ::"l"(p), "r"(value)
               : "memory");
}

FORETOKEN_DEVICE void atomic_max(std::uint32_t* at, std::uint32_t value) {
  atomicMax(at, value);
}
FORETOKEN_DEVICE void atomic_max(std::uint64_t* at, std::uint64_t value) {
  atomicMax(reinterpret_cast<unsigned long long*>(at), static_cast<unsigned long long>(value));
}
FORETOKEN_DEVICE std::uint32_t atomic_add(std::uint32_t* at, std::uint32_t value) {
  return atomicAdd(at, value);
}
FORETOKEN_DEVICE void device_fence() {
  __threadfence();
}

// Programmatic dependent launch: what comes before wait may touch nothing that an earlier kernel of
// the chain writes; release lets the successor start its own first part. Kernels release once they
// have waited: released before, blocks of several kernels ahead take the shared memory (a step of
// 32 rows of SmolLM2 554 us instead of 532, H200, 2026-11-30).
FORETOKEN_DEVICE void wait_for_predecessor() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
FORETOKEN_DEVICE void release_successor() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// Two floats, rounded to nearest even, as f16 in the low and the high half.
FORETOKEN_DEVICE std::uint32_t half_pair(float low, float high) {
  std::uint32_t out;
  asm("cvt.rn.f16x2.f32 %0,%1,%2;" : "=r"(out) : "f"(high), "f"(low));
  return out;
}
FORETOKEN_DEVICE std::uint16_t half_of(float x) {
  std::uint16_t out;
  asm("cvt.rn.f16.f32 %0,%1;" : "=h"(out) : "f"(x));
  return out;
}
FORETOKEN_DEVICE float float_of(std::uint16_t half) {
  float out;
  asm("cvt.f32.f16 %0,%1;" : "=f"(out) : "h"(half));
  return out;
}
// a * b + c in both halves, each rounded once
FORETOKEN_DEVICE std::uint32_t half_pair_fma(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
  std::uint32_t out;
  asm("fma.rn.f16x2 %0,%1,%2,%3;" : "=r"(out) : "r"(a), "r"(b), "r"(c));
  return out;
}
FORETOKEN_DEVICE std::uint32_t half_pair_subtract(std::uint32_t a, std::uint32_t b) {
  std::uint32_t out;
  asm("sub.rn.f16x2 %0,%1,%2;" : "=r"(out) : "r"(a), "r"(b));
  return out;
}
// Bytes picked out of {a, b}: nibble i of `pick` names the byte (0..7) that becomes byte i.
FORETOKEN_DEVICE std::uint32_t pick_bytes(std::uint32_t a, std::uint32_t b, std::uint32_t pick) {
  return __byte_perm(a, b, pick);
}
FORETOKEN_DEVICE float exp2_fast(float x) {
  float out;
  asm("ex2.approx.ftz.f32 %0,%1;" : "=f"(out) : "f"(x));
  return out;
}
FORETOKEN_DEVICE float fused_multiply_add(float a, float b, float c) {
  return __fmaf_rn(a, b, c);
}
FORETOKEN_DEVICE float larger(float a, float b) {
  return fmaxf(a, b);
}
FORETOKEN_DEVICE float smaller(float a, float b) {
  return fminf(a, b);
}

#else  // ---- the same on the processor ---------------------------------------------------------

inline int thread_index() {
  return static_cast<int>(spmd::thread_index());
}
inline int block_x() {
  return static_cast<int>(spmd::block_index().x);
}
inline int block_y() {
  return static_cast<int>(spmd::block_index().y);
}
inline int block_z() {
  return static_cast<int>(spmd::block_index().z);
}
inline int grid_x() {
  return static_cast<int>(spmd::grid_extent().x);
}
inline unsigned char* shared_memory() {
  return spmd::shared_memory();
}

inline void block_sync(FORETOKEN_PLACE_ONLY) {
  spmd::block_barrier(here);
}
inline void warp_sync(FORETOKEN_PLACE_ONLY) {
  spmd::warp_rendezvous([](void* const*) {}, nullptr, here);
}
template <int Threads>
inline void part_sync(int id FORETOKEN_PLACE) {
  spmd::part_barrier(static_cast<unsigned>(id), Threads, here);
}
inline void barrier_init(barrier* b, int count FORETOKEN_PLACE) {
  spmd::barrier_init(b, static_cast<unsigned>(count), here);
}
inline void barrier_arrive(barrier* b FORETOKEN_PLACE) {
  spmd::barrier_arrive(b, here);
}
inline void barrier_wait(barrier* b, int parity FORETOKEN_PLACE) {
  spmd::barrier_wait(b, parity, here);
  warp_sync(here);
}
inline std::uint32_t float_bits(float x) {
  return std::bit_cast<std::uint32_t>(x);
}
inline float bits_float(std::uint32_t x) {
  return std::bit_cast<float>(x);
}
inline std::uint32_t shuffle(std::uint32_t value, int lane FORETOKEN_PLACE) {
  return spmd::shuffle(value, static_cast<unsigned>(lane), here);
}
inline std::uint32_t shuffle_xor(std::uint32_t value, int mask FORETOKEN_PLACE) {
  return spmd::shuffle(value, (spmd::thread_index() % 32) ^ static_cast<unsigned>(mask), here);
}
inline float shuffle_xor(float value, int mask FORETOKEN_PLACE) {
  return bits_float(shuffle_xor(float_bits(value), mask, here));
}
inline std::uint32_t warp_largest(std::uint32_t value FORETOKEN_PLACE) {
  for (int mask = 16; mask > 0; mask /= 2) {
    const std::uint32_t other = shuffle_xor(value, mask, here);
    value = other > value ? other : value;
  }
  return value;
}
inline std::uint32_t warp_least(std::uint32_t value FORETOKEN_PLACE) {
  return ~warp_largest(~value, here);
}
inline void mma(float (&d)[4],
                const std::uint32_t (&a)[4],
                const std::uint32_t (&b)[2] FORETOKEN_PLACE) {
  spmd::matrix_product(d, a, b, here);
}
inline void load_matrices_4(std::uint32_t (&r)[4], const void* row FORETOKEN_PLACE) {
  spmd::load_matrices(r, 4, row, here);
}
inline void load_matrices_2(std::uint32_t (&r)[2], const void* row FORETOKEN_PLACE) {
  spmd::load_matrices(r, 2, row, here);
}
inline std::uint32_t transpose_8x8(std::uint32_t pair FORETOKEN_PLACE) {
  return spmd::transpose(pair, here);
}
inline void copy_async_16(void* shared, const void* global FORETOKEN_PLACE) {
  spmd::copy_async(shared, global, 16, here);
}
template <int Bytes>
inline void copy_async_small(void* shared, const void* global FORETOKEN_PLACE) {
  spmd::copy_async(shared, global, Bytes, here);
}
inline void copy_async_commit() {
  spmd::copy_async_commit();
}
template <int GroupsLeft>
inline void copy_async_wait() {
  spmd::copy_async_wait(GroupsLeft);
}
inline void prefetch_line(const void*) {}
template <class T>
inline T load_shared_device(const T* p) {
  return *p;
}
inline u32x4 load_host_16(const u32x4* p) {
  return *p;
}
inline void store_release_host(std::uint32_t* p, std::uint32_t value) {
  *p = value;
}
inline void atomic_max(std::uint32_t* at, std::uint32_t value) {
  if (value > *at) *at = value;
}
inline void atomic_max(std::uint64_t* at, std::uint64_t value) {
  if (value > *at) *at = value;
}
inline std::uint32_t atomic_add(std::uint32_t* at, std::uint32_t value) {
  const std::uint32_t before = *at;
  *at += value;
  return before;
}
inline void device_fence() {}
inline void wait_for_predecessor() {}
inline void release_successor() {}

// Nearest even from a double that holds the exact value.
inline std::uint16_t half_of_exact(double x) {
  const float rounded = static_cast<float>(x);
  // Odd rounding to 24 bits first, so that the second rounding is as if there had been one.
  std::uint32_t bits = std::bit_cast<std::uint32_t>(rounded);
  if (static_cast<double>(rounded) != x && std::isfinite(rounded)) {
    const bool away = std::fabs(static_cast<double>(rounded)) > std::fabs(x);
    if (away) bits -= 1;
    bits |= 1;
  }
  return float_to_f16(std::bit_cast<float>(bits));
}
inline std::uint16_t half_of(float x) {
  return float_to_f16(x);
}
inline float float_of(std::uint16_t half) {
  return f16_to_float(half);
}
inline std::uint32_t half_pair(float low, float high) {
  return half_of(low) | static_cast<std::uint32_t>(half_of(high)) << 16;
}
inline double half_in(std::uint32_t pair, int which) {
  return static_cast<double>(f16_to_float(static_cast<std::uint16_t>(pair >> (16 * which))));
}
inline std::uint32_t half_pair_fma(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
  return half_of_exact(half_in(a, 0) * half_in(b, 0) + half_in(c, 0)) |
         static_cast<std::uint32_t>(half_of_exact(half_in(a, 1) * half_in(b, 1) + half_in(c, 1)))
             << 16;
}
inline std::uint32_t half_pair_subtract(std::uint32_t a, std::uint32_t b) {
  return half_of_exact(half_in(a, 0) - half_in(b, 0)) |
         static_cast<std::uint32_t>(half_of_exact(half_in(a, 1) - half_in(b, 1))) << 16;
}
inline std::uint32_t pick_bytes(std::uint32_t a, std::uint32_t b, std::uint32_t pick) {
  const std::uint64_t all = a | static_cast<std::uint64_t>(b) << 32;
  std::uint32_t out = 0;
  for (unsigned i = 0; i < 4; ++i) {
    out |= static_cast<std::uint32_t>(all >> (8 * (pick >> (4 * i) & 7)) & 255) << (8 * i);
  }
  return out;
}
inline float exp2_fast(float x) {
  return std::exp2(x);
}
inline float fused_multiply_add(float a, float b, float c) {
  return std::fma(a, b, c);
}
inline float larger(float a, float b) {
  return std::fmax(a, b);
}
inline float smaller(float a, float b) {
  return std::fmin(a, b);
}

#endif

}  // namespace foretoken::gpu
