// SPDX-License-Identifier: Apache-2.0
#pragma once
// What the cluster-resident step needs of sm_90 beyond device.cuh: barriers that count bytes, bulk
// copies, stores into another block's shared memory. Not emulated on the processor.

#include <cuda_fp16.h>

#include "gpu/block_cluster.cuh"

namespace foretoken::gpu::cluster {

// Arms the current phase: it completes when `bytes` have arrived. Bytes may come before the call.
FORETOKEN_DEVICE void barrier_expect(barrier* b, std::uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _,[%0],%1;" ::"r"(shared_address(b)),
               "r"(bytes)
               : "memory");
}
// Barrier inits become visible to the copy engine and, after a cluster barrier, to the cluster.
FORETOKEN_DEVICE void fence_barrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// What this thread stored in shared memory comes before what the copy engine brings there later.
FORETOKEN_DEVICE void fence_stores_before_copies() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Copies global to shared memory; sizes and addresses are multiples of 16. The barrier expects it.
FORETOKEN_DEVICE void bulk_copy(void* shared, const void* global, std::uint32_t bytes, barrier* b) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0],[%1],%2,[%3];" ::"r"(
          shared_address(shared)),
      "l"(global), "r"(bytes), "r"(shared_address(b))
      : "memory");
}
FORETOKEN_DEVICE void bulk_load(void* shared, const void* global, std::uint32_t bytes, barrier* b) {
  barrier_expect(b, bytes);
  bulk_copy(shared, global, bytes, b);
}

FORETOKEN_DEVICE int cluster_rank() {
  std::uint32_t r;
  asm volatile("mov.u32 %0,%%cluster_ctarank;" : "=r"(r));
  return static_cast<int>(r);
}
FORETOKEN_DEVICE void cluster_barrier() {
  cluster_arrive();
  cluster_wait();
}

// Stores into the cluster; the bytes count on the barrier. Addresses as address_in gives them, both
// in the same block.
FORETOKEN_DEVICE void store_counted(std::uint32_t at, const u32x4& v, std::uint32_t b) {
  asm volatile(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 "
      "[%0],{%1,%2,%3,%4},[%5];" ::"r"(at),
      "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w), "r"(b)
      : "memory");
}
FORETOKEN_DEVICE void add_in_cluster(std::uint32_t at, int rank, std::uint32_t v) {
  asm volatile("red.relaxed.cluster.shared::cluster.add.u32 [%0],%1;" ::"r"(address_in(at, rank)),
               "r"(v)
               : "memory");
}
// The same with local addresses and a block.
FORETOKEN_DEVICE void send_16(std::uint32_t at, const u32x4& v, std::uint32_t b, int rank) {
  store_counted(address_in(at, rank), v, address_in(b, rank));
}
FORETOKEN_DEVICE void send_8(std::uint32_t at, const u32x2& v, std::uint32_t b, int rank) {
  asm volatile(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [%0],{%1,%2},[%3];" ::"r"(
          address_in(at, rank)),
      "r"(v.x), "r"(v.y), "r"(address_in(b, rank))
      : "memory");
}
// mma of device.cuh, but never moved: the compiler may sink a plain one into the branch that uses
// its sums, where not all lanes are, and the warp stands for ever.
FORETOKEN_DEVICE void mma_in_place(float (&d)[4],
                                   const std::uint32_t (&a)[4],
                                   const std::uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},"
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// K and V lines are read once a layer; the newest token's line may be written meanwhile (its place
// is patched), so no read-only path.
FORETOKEN_DEVICE u32x4 load_line(const void* global) {
  u32x4 v;
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0,%1,%2,%3},[%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(global));
  return v;
}

// The same value, about which the compiler knows nothing: what is computed from it is not kept in
// registers across the phases of a layer.
template <class T>
FORETOKEN_DEVICE T afresh(T value) {
  static_assert(sizeof(T) == 4);
  asm volatile("" : "+r"(value));
  return value;
}

}  // namespace foretoken::gpu::cluster
