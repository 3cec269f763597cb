// SPDX-License-Identifier: Apache-2.0
#pragma once
// Sums in the order of the host's sampler, and what is found with them. A block's threads take part
// in all of it, or one warp where that is said.

#include <bit>

#include "gpu/device.cuh"

namespace foretoken::gpu {

FORETOKEN_DEVICE double shuffle_xor_double(double value, int mask) {
  const auto bits = std::bit_cast<std::uint64_t>(value);
  const std::uint32_t low = shuffle_xor(static_cast<std::uint32_t>(bits), mask);
  const std::uint32_t high = shuffle_xor(static_cast<std::uint32_t>(bits >> 32), mask);
  return std::bit_cast<double>(static_cast<std::uint64_t>(high) << 32 | low);
}

FORETOKEN_DEVICE std::uint64_t warp_largest_key(std::uint64_t key) {
  const auto high = static_cast<std::uint32_t>(key >> 32);
  const std::uint32_t best = warp_largest(high);
  const std::uint32_t low = warp_largest(high == best ? static_cast<std::uint32_t>(key) : 0u);
  return static_cast<std::uint64_t>(best) << 32 | low;
}

// values[i] becomes values[0] + .. + values[i], added in this order, until one is more than
// `beyond`; how many have become so. One thread; loads run ahead of the additions.
FORETOKEN_DEVICE int accumulate(double* values, int n, double beyond) {
  double sum = 0;
  FORETOKEN_UNROLL_BY(8)
  for (int i = 0; i < n; ++i) {
    sum += values[i];
    values[i] = sum;
    if (i % 8 == 7 && sum > beyond) return i + 1;
  }
  return n;
}

// The first i in [0, n) that `holds`, or n, in every lane of one warp.
template <class Holds>
FORETOKEN_DEVICE int first_where(int n, Holds holds) {
  int found = n;
  for (int i = thread_index() % 32; i < n; i += 32) {
    if (!holds(i)) continue;
    found = i;
    break;
  }
  return static_cast<int>(warp_least(static_cast<std::uint32_t>(found)));
}

// Keys in descending order, by the block: a bitonic network over the next power of two, for which
// there is room behind them.
FORETOKEN_DEVICE void sort_descending(std::uint64_t* keys, int count, int threads) {
  int size = 2;
  while (size < count) size *= 2;
  for (int i = count + thread_index(); i < size; i += threads) keys[i] = 0;
  block_sync();
  for (int run = 2; run <= size; run *= 2) {
    for (int apart = run / 2; apart > 0; apart /= 2) {
      for (int i = thread_index(); i < size / 2; i += threads) {
        const int low = 2 * i - (i & (apart - 1));
        const std::uint64_t a = keys[low], b = keys[low + apart];
        if ((a < b) != ((low & run) == 0)) continue;
        keys[low] = b;
        keys[low + apart] = a;
      }
      block_sync();
    }
  }
}

}  // namespace foretoken::gpu
