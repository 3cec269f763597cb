// SPDX-License-Identifier: Apache-2.0
#pragma once
// Work on blocks of a range by all cores, while weights are loaded.

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

namespace foretoken::gpu {

// work(first, count) for [0, total) in blocks of at most `block`; returns when all is done.
// `work` runs on several threads at once.
template <class Work>
void each_block(int total, int block, Work work) {
  std::atomic<int> next{0};
  const auto run = [&] {
    for (int first = next.fetch_add(block); first < total; first = next.fetch_add(block)) {
      work(first, std::min(block, total - first));
    }
  };
  const int blocks = (total + block - 1) / block;
  const int helpers =
      std::min(blocks, static_cast<int>(std::max(1u, std::thread::hardware_concurrency()))) - 1;
  std::vector<std::jthread> threads;
  for (int i = 0; i < helpers; ++i) threads.emplace_back(run);
  run();
}

}  // namespace foretoken::gpu
