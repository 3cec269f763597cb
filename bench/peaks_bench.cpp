// SPDX-License-Identifier: Apache-2.0
// The two ceilings of integer inference on this machine, now: multiply-adds, and reading 96 MiB on
// huge pages.
//   peaks_bench [--threads N] [--rounds N] [--smoke]

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <thread>
#include <vector>

#include "bench/peaks.hpp"
#include "cpu/backend.hpp"

using namespace foretoken;

namespace {

struct spread {
  double median = 0, best = 0;
};

template <class Work>
spread repeat(int rounds, Work&& work) {
  std::vector<double> rates;
  rates.reserve(static_cast<std::size_t>(rounds));
  work();  // the first one warms up
  for (int i = 0; i < rounds; ++i) rates.push_back(work());
  std::sort(rates.begin(), rates.end());
  return {rates[rates.size() / 2], rates.back()};
}

}  // namespace

int main(int count, char** arguments) {
  int threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  int rounds = 21;
  std::size_t bytes = bench::streamed_memory::usual_bytes;
  for (int i = 1; i < count; ++i) {
    const std::string_view flag = arguments[i];
    const int value = i + 1 < count ? std::atoi(arguments[i + 1]) : 0;
    if (flag == "--smoke") {
      rounds = 1;
      bytes = 4u << 20;
    } else if (flag == "--threads" && value > 0) {
      threads = value, ++i;
    } else if (flag == "--rounds" && value > 0) {
      rounds = value, ++i;
    } else {
      std::fprintf(stderr, "usage: peaks_bench [--threads N] [--rounds N] [--smoke]\n");
      return 2;
    }
  }
  cpu::thread_pool pool(threads);
  const bench::streamed_memory memory(bytes);
  const spread adds = repeat(rounds, [&] { return bench::multiply_add_peak(pool); });
  const spread stream = repeat(rounds, [&] { return memory.read(pool); });
  std::printf("peaks_bench: %s, %d threads, %zu MiB on huge pages, %d rounds\n",
              cpu::path_name(cpu::isa::automatic), threads, bytes >> 20, rounds);
  std::printf("multiply-add  median %7.1f best %7.1f GMAC/s\n", adds.median, adds.best);
  std::printf("stream        median %7.1f best %7.1f GB/s\n", stream.median, stream.best);
  return 0;
}
