// SPDX-License-Identifier: Apache-2.0
#pragma once
// Blocks of a cluster (sm_90 and later) meet and find each other's shared memory. Not emulated on
// the processor.

#include "gpu/device.cuh"

namespace foretoken::gpu {

FORETOKEN_DEVICE void cluster_arrive() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
FORETOKEN_DEVICE void cluster_wait() {
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
// The address in block `rank` of what stands at `local` here.
FORETOKEN_DEVICE std::uint32_t address_in(std::uint32_t local, int rank) {
  std::uint32_t out;
  asm volatile("mapa.shared::cluster.u32 %0,%1,%2;" : "=r"(out) : "r"(local), "r"(rank));
  return out;
}

// Plain stores into the same place of block `rank`: visible there after the next cluster barrier.
FORETOKEN_DEVICE void store_in_cluster(std::uint32_t at, int rank, std::uint32_t v) {
  asm volatile("st.shared::cluster.u32 [%0],%1;" ::"r"(address_in(at, rank)), "r"(v) : "memory");
}
FORETOKEN_DEVICE void store_in_cluster(std::uint32_t at, int rank, const float (&v)[4]) {
  asm volatile("st.shared::cluster.v4.f32 [%0],{%1,%2,%3,%4};" ::"r"(address_in(at, rank)),
               "f"(v[0]), "f"(v[1]), "f"(v[2]), "f"(v[3])
               : "memory");
}

}  // namespace foretoken::gpu
