// SPDX-License-Identifier: Apache-2.0
// What a GPU makes of cache.kv.
#include <doctest/doctest.h>

#include "actors/devices.hpp"

namespace foretoken {
namespace {

TEST_CASE("cache.kv: a GPU stores f16 or int8 and refuses what only CPUs have, by name") {
  CHECK(*actors::gpu_kv_form(cpu::kv_type::automatic) == gpu::kv_form::f16);
  CHECK(*actors::gpu_kv_form(cpu::kv_type::f16) == gpu::kv_form::f16);
  CHECK(*actors::gpu_kv_form(cpu::kv_type::int8) == gpu::kv_form::int8);
  for (const cpu::kv_type other : {cpu::kv_type::bf16, cpu::kv_type::f32}) {
    const auto refused = actors::gpu_kv_form(other);
    REQUIRE(!refused);
    CHECK(refused.error().code == errc::unsupported);
    CHECK(to_string(refused.error()).find("cache.kv") != std::string::npos);
  }
}

}  // namespace
}  // namespace foretoken
