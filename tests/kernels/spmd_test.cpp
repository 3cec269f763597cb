// SPDX-License-Identifier: Apache-2.0
// The emulator finds the faults it is there for.
#include <doctest/doctest.h>

#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "gpu/device.cuh"

namespace foretoken {
namespace {

using namespace gpu;
using spmd::schedule;

constexpr schedule orders[] = {schedule::forward, schedule::reverse, schedule::shuffled};

// Every thread passes a value to the one `shift` after it through shared memory.
void pass_on(float* out, int shift, bool barrier) {
  auto* const values = reinterpret_cast<float*>(shared_memory());
  values[thread_index()] = static_cast<float>(thread_index());
  if (barrier) block_sync();
  out[thread_index()] = values[(thread_index() + shift) % 64];
}

int wrong_values(schedule order, bool barrier) {
  std::vector<float> out(64, -1);
  spmd::use_schedule(order, 3);
  REQUIRE(spmd::run({1}, {64}, 64 * sizeof(float), [&] { pass_on(out.data(), 1, barrier); }) == "");
  int wrong = 0;
  for (int i = 0; i < 64; ++i) {
    if (!(out[static_cast<std::size_t>(i)] == static_cast<float>((i + 1) % 64))) ++wrong;
  }
  return wrong;
}

TEST_CASE("spmd: a missing barrier shows in some schedule, a present one in none") {
  int caught = 0;
  for (const schedule order : orders) {
    CHECK(wrong_values(order, true) == 0);
    if (wrong_values(order, false) > 0) ++caught;
  }
  CHECK(caught > 0);
}

TEST_CASE("spmd: a missing wait for an asynchronous copy reads NaN") {
  std::vector<float> from(64, 1), out(16);
  const auto body = [&](bool wait) {
    return spmd::run({1}, {4}, 64, [&] {
      auto* const values = reinterpret_cast<float*>(shared_memory());
      copy_async_16(values + thread_index() * 4, from.data() + thread_index() * 4);
      copy_async_commit();
      if (wait) copy_async_wait<0>();
      block_sync();
#if !defined(__SANITIZE_ADDRESS__)
      if (thread_index() == 0) std::copy_n(values, 16, out.begin());
#else
      if (thread_index() == 0 && wait) std::copy_n(values, 16, out.begin());
#endif
    });
  };
  CHECK(body(true) == "");
  CHECK(out[7] == 1);
#if !defined(__SANITIZE_ADDRESS__)
  CHECK(body(false) == "");
  CHECK(std::isnan(out[7]));
#endif
}

TEST_CASE("spmd: barriers at two lines, lost lanes and deadlocks are named") {
  for (const schedule order : orders) {
    spmd::use_schedule(order, 5);
    const std::string two = spmd::run({1}, {64}, 0, [] {
      if (thread_index() < 32) {
        block_sync();
      } else {
        block_sync();
      }
    });
    CHECK(two.find("different lines") != std::string::npos);
    const std::string left = spmd::run({1}, {64}, 0, [] {
      if (thread_index() % 32 < 20) shuffle_xor(1.0f, 1);
    });
    CHECK(left != "");
    const std::string stuck = spmd::run({2}, {64}, 0, [] {
      if (thread_index() % 32 == 0) {
        block_sync();
      } else {
        warp_sync();
      }
    });
    CHECK(stuck.find("deadlock") != std::string::npos);
    CHECK(stuck.find("spmd_test.cpp") != std::string::npos);
    const std::string gone = spmd::run({1}, {64}, 0, [] {
      if (thread_index() < 32) block_sync();
    });
    CHECK(gone.find("has left") != std::string::npos);
  }
}

TEST_CASE("spmd: barriers of a part open again and again; what is missing is named") {
  for (const schedule order : orders) {
    spmd::use_schedule(order, 5);
    int written = -1, seen = 0;
    const std::string good = spmd::run({1}, {96}, 0, [&] {
      if (thread_index() >= 64) return;
      for (int i = 0; i < 3; ++i) {
        if (thread_index() == 0) written = i;
        part_sync<64>(3);
        if (thread_index() == 40 && written == i) ++seen;
        part_sync<64>(4);
      }
    });
    CHECK(good == "");
    CHECK(seen == 3);
    const std::string missing = spmd::run({1}, {64}, 0, [] {
      if (thread_index() >= 32) part_sync<64>(1);
    });
    CHECK(missing.find("deadlock") != std::string::npos);
    const std::string unknown = spmd::run({1}, {32}, 0, [] { part_sync<32>(0); });
    CHECK(unknown.find("does not exist") != std::string::npos);
    const std::string apart = spmd::run({1}, {64}, 0, [] {
      if (thread_index() < 32) {
        part_sync<64>(1);
      } else {
        part_sync<64>(1);
      }
    });
    CHECK(apart.find("different places") != std::string::npos);
  }
}

TEST_CASE("spmd: barriers in shared memory hand over in turn; what is wrong with them is named") {
  const auto at = [](int n) { return reinterpret_cast<barrier*>(shared_memory()) + n; };
  for (const schedule order : orders) {
    spmd::use_schedule(order, 5);
    std::vector<int> turns;
    // Three warps add their numbers in turn, twice; each is handed over by the one before it.
    const std::string good = spmd::run({1}, {96}, 24, [&] {
      const int warp = thread_index() / 32;
      if (thread_index() < 3) barrier_init(at(thread_index()), 32);
      block_sync();
      for (int number = warp; number < 6; number += 3) {
        if (number > 0) barrier_wait(at(warp), (number - 1) / 3 % 2);
        if (thread_index() % 32 == 7) turns.push_back(number);
        if (number < 5) barrier_arrive(at((warp + 1) % 3));
      }
    });
    CHECK(good == "");
    CHECK(turns == std::vector{0, 1, 2, 3, 4, 5});
    const auto first = [&](auto&& then, int count = 2) {
      return spmd::run({1}, {32}, 8, [&] {
        if (thread_index() == 0) barrier_init(at(0), count);
        block_sync();
        then();
      });
    };
    const std::string missing = first([&] { barrier_wait(at(0), 0); });
    CHECK(missing.find("deadlock") != std::string::npos);
    const std::string spare = first([&] { barrier_arrive(at(0)); }, 33);
    CHECK(spare.find("nobody opened") != std::string::npos);
    const std::string lost = first([&] {
      std::memset(shared_memory(), 9, 8);
      barrier_arrive(at(0));
    });
    CHECK(lost.find("written over") != std::string::npos);
    const std::string none = spmd::run({1}, {32}, 8, [&] { barrier_arrive(at(0)); });
    CHECK(none.find("nobody initialised") != std::string::npos);
    const std::string twice = first([&] { barrier_init(at(0), 2); });
    CHECK(twice.find("initialised twice") != std::string::npos);
    const std::string outside = spmd::run({1}, {32}, 8, [&] { barrier_init(at(1), 1); });
    CHECK(outside.find("beyond shared memory") != std::string::npos);
    const std::string empty = spmd::run({1}, {32}, 8, [&] { barrier_init(at(0), 0); });
    CHECK(empty.find("without arrivals") != std::string::npos);
  }
}

TEST_CASE("spmd: products and transposes are those of the manual") {
  // a = 16 x 16 with a[r][c] = r + c / 16, b = columns of the identity, shifted
  std::vector<float> d(128);
  const std::string failure = spmd::run({1}, {32}, 0, [&] {
    const int g = thread_index() / 4, t = thread_index() % 4;
    std::uint32_t a[4], b[2];
    for (int r = 0; r < 4; ++r) {
      const float row = static_cast<float>(g + 8 * (r % 2));
      const float column = static_cast<float>(2 * t + 8 * (r / 2)) / 16;
      a[r] = half_pair(row + column, row + column + 1.0f / 16);
    }
    for (int r = 0; r < 2; ++r) {
      const int k = 2 * t + 8 * r;
      b[r] = half_pair(k == g + 3 ? 1.0f : 0.0f, k + 1 == g + 3 ? 1.0f : 0.0f);
    }
    float sum[4] = {0, 0, 0, 1};
    mma(sum, a, b);
    for (int i = 0; i < 4; ++i) {
      d[static_cast<std::size_t>((g + 8 * (i / 2)) * 8 + 2 * t + i % 2)] = sum[i];
    }
    const std::uint32_t turned =
        transpose_8x8(static_cast<std::uint32_t>((8 * g + 2 * t) | (8 * g + 2 * t + 1) << 16));
    const std::uint32_t expected =
        static_cast<std::uint32_t>((16 * t + g) | (16 * t + 8 + g) << 16);
    if (turned != expected) spmd::fail("transpose", {__FILE__, __LINE__});
  });
  CHECK(failure == "");
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 8; ++column) {
      const float added = row >= 8 && column % 2 == 1 ? 1.0f : 0.0f;
      CHECK(d[static_cast<std::size_t>(row * 8 + column)] ==
            static_cast<float>(row) + static_cast<float>(column + 3) / 16 + added);
    }
  }
}

// Reads one value beyond its shared memory: only for the sanitizer to find, see CMakeLists.txt.
TEST_CASE("planted overrun of shared memory" * doctest::skip()) {
  const std::string failure = spmd::run({1}, {32}, 32 * sizeof(float), [] {
    auto* const values = reinterpret_cast<volatile float*>(shared_memory());
    values[thread_index() + 1] = 1;
  });
  CHECK(failure == "");
}

}  // namespace
}  // namespace foretoken
