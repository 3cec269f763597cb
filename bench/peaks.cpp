// SPDX-License-Identifier: Apache-2.0
#include "bench/peaks.hpp"

#include <sys/mman.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "cpu/dispatch.hpp"

namespace foretoken::bench {
namespace {

using clock_type = std::chrono::steady_clock;
constexpr std::size_t huge_page = std::size_t{2} << 20;

double seconds_since(clock_type::time_point start) {
  return std::chrono::duration<double>(clock_type::now() - start).count();
}

#if defined(__x86_64__)
__attribute__((target("avx512f,avx512vnni"))) void multiply_add_loop(long rounds) {
  for (long i = 0; i < rounds; ++i) {
    asm volatile(
        "vpdpbusd %%zmm30,%%zmm31,%%zmm0\n vpdpbusd %%zmm30,%%zmm31,%%zmm1\n"
        "vpdpbusd %%zmm30,%%zmm31,%%zmm2\n vpdpbusd %%zmm30,%%zmm31,%%zmm3\n"
        "vpdpbusd %%zmm30,%%zmm31,%%zmm4\n vpdpbusd %%zmm30,%%zmm31,%%zmm5\n"
        "vpdpbusd %%zmm30,%%zmm31,%%zmm6\n vpdpbusd %%zmm30,%%zmm31,%%zmm7\n"
        "vpdpbusd %%zmm30,%%zmm31,%%zmm8\n vpdpbusd %%zmm30,%%zmm31,%%zmm9\n" ::
            : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9");
  }
}

// Loads only: nothing waits for what was read. A step is 256 bytes.
__attribute__((target("avx512f"))) void read_wide(const std::byte* from, std::size_t bytes) {
  for (const std::byte* const end = from + bytes; from != end; from += 256) {
    asm volatile(
        "vmovdqa64 (%0),%%zmm0\n vmovdqa64 64(%0),%%zmm1\n"
        "vmovdqa64 128(%0),%%zmm2\n vmovdqa64 192(%0),%%zmm3\n" ::"r"(from)
        : "xmm0", "xmm1", "xmm2", "xmm3");
  }
}
__attribute__((target("avx2"))) void read_narrow(const std::byte* from, std::size_t bytes) {
  for (const std::byte* const end = from + bytes; from != end; from += 128) {
    asm volatile(
        "vmovdqa (%0),%%ymm0\n vmovdqa 32(%0),%%ymm1\n"
        "vmovdqa 64(%0),%%ymm2\n vmovdqa 96(%0),%%ymm3\n" ::"r"(from)
        : "xmm0", "xmm1", "xmm2", "xmm3");
  }
}
#endif

void read_words(const std::byte* from, std::size_t bytes) {
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < bytes; i += 8) {
    std::uint64_t word;
    std::memcpy(&word, from + i, sizeof word);
    sum ^= word;
  }
  asm volatile("" ::"r"(sum));  // so that the reads stay
}

using reader = void (*)(const std::byte*, std::size_t);
reader best_reader() {
#if defined(__x86_64__)
  if (cpu::features().avx512) return read_wide;
  if (cpu::features().avx2) return read_narrow;
#endif
  return read_words;
}

}  // namespace

double multiply_add_peak(cpu::thread_pool& threads) {
#if defined(__x86_64__)
  if (!cpu::features().avx512) return 0;
  constexpr long rounds = 200000;
  const int count = threads.threads();
  const auto start = clock_type::now();
  threads.run(count, [](int, int) { multiply_add_loop(rounds); });
  return static_cast<double>(rounds) * 10 * 64 * count / seconds_since(start) / 1e9;
#else
  static_cast<void>(threads);
  return 0;
#endif
}

streamed_memory::streamed_memory(std::size_t bytes)
    : bytes_((bytes + huge_page - 1) / huge_page * huge_page) {
  void* const found = mmap(nullptr, bytes_ + huge_page, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (found == MAP_FAILED) {
    std::fprintf(stderr, "no memory for %zu bytes\n", bytes_);
    std::exit(1);
  }
  mapping_ = static_cast<std::byte*>(found);
  const auto address = reinterpret_cast<std::uintptr_t>(mapping_);
  start_ = mapping_ + (huge_page - address % huge_page) % huge_page;
  madvise(start_, bytes_, MADV_HUGEPAGE);
  std::memset(start_, 1, bytes_);
}

streamed_memory::~streamed_memory() {
  munmap(mapping_, bytes_ + huge_page);
}

double streamed_memory::read(cpu::thread_pool& threads) const {
  const reader read_piece = best_reader();
  const auto start = clock_type::now();
  threads.run(static_cast<int>(bytes_ / huge_page), [&](int piece, int) {
    read_piece(start_ + static_cast<std::size_t>(piece) * huge_page, huge_page);
  });
  return static_cast<double>(bytes_) / seconds_since(start) / 1e9;
}

}  // namespace foretoken::bench
