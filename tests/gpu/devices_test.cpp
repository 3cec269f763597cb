// SPDX-License-Identifier: Apache-2.0
#include "gpu/devices.hpp"

#include <doctest/doctest.h>

namespace foretoken::gpu {
namespace {

TEST_CASE("devices: a choice is auto, cpu, cuda, or cuda with numbers") {
  using kind = device_choice::kind;
  CHECK(parse_device_choice("auto")->what == kind::automatic);
  CHECK(parse_device_choice("cpu")->what == kind::cpu);
  CHECK(parse_device_choice("cuda")->ordinals == std::vector<int>{0});
  CHECK(parse_device_choice("cuda:3")->ordinals == std::vector<int>{3});
  CHECK(parse_device_choice("cuda:0,2,1")->ordinals == std::vector<int>{0, 2, 1});
  for (const char* wrong : {"", "gpu", "cuda:", "cuda:x", "cuda:1,", "cuda:-1", "cuda:0,0",
                            "cuda:999", "CPU", "cuda:1 "}) {
    CAPTURE(wrong);
    const auto refused = parse_device_choice(wrong);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().field == "model.device");
  }
}

TEST_CASE("devices: a library that is missing or something else is refused by name") {
  const auto missing = open_library("/nonexistent/libforetoken_gpu.so");
  REQUIRE_FALSE(missing);
  CHECK(missing.error().code == errc::not_found);
  CHECK(missing.error().field == "gpu.library");
  const auto other = open_library("libc.so.6");
  REQUIRE_FALSE(other);
  const auto text = open_library(FORETOKEN_TEST_DATA "/reference/README.md");
  REQUIRE_FALSE(text);
  CHECK(text.error().code == errc::unsupported);
}

TEST_CASE("devices: what cannot be used is listed with its reason") {
  device_facts one;
  one.name = "Old";
  one.major = 7;
  one.problem = "too old";
  CHECK(describe(one).find("Old, compute 7.0") != std::string::npos);
  CHECK(describe(one).find(": too old") != std::string::npos);
}

}  // namespace
}  // namespace foretoken::gpu
