// SPDX-License-Identifier: Apache-2.0
#pragma once
// What this machine can do at the moment: the ceilings beside the figures of the benchmarks.

#include <cstddef>
#include <memory>

#include "cpu/thread_pool.hpp"

namespace foretoken::bench {

// Multiply-adds of bytes (vpdpbusd) over all threads, nothing else: GMAC/s. 0 without AVX-512 VNNI.
double multiply_add_peak(cpu::thread_pool& threads);

// Memory on huge pages that is read from front to end, as packed weights are.
class streamed_memory {
 public:
  // 96 MiB: as large as a small model, three times the L3 of the processors measured so far.
  static constexpr std::size_t usual_bytes = std::size_t{96} << 20;
  explicit streamed_memory(std::size_t bytes = usual_bytes);  // rounded up to 2 MiB
  ~streamed_memory();
  streamed_memory(const streamed_memory&) = delete;
  streamed_memory& operator=(const streamed_memory&) = delete;
  // One pass over all of it by all threads: GB/s.
  double read(cpu::thread_pool& threads) const;

 private:
  std::byte* mapping_ = nullptr;
  std::byte* start_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace foretoken::bench
