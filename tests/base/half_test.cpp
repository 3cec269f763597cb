// SPDX-License-Identifier: Apache-2.0
#include "base/half.hpp"

#include <cmath>

#include <doctest/doctest.h>

using namespace foretoken;

TEST_CASE("half: every f16 value survives the way to float and back") {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    const float value = f16_to_float(half);
    if (std::isnan(value)) {
      CHECK(std::isnan(f16_to_float(float_to_f16(value))));
    } else {
      REQUIRE(float_to_f16(value) == half);
    }
  }
}

TEST_CASE("half: f16 rounds to nearest even and overflows to infinity") {
  CHECK(float_to_f16(1.0f + 0x1p-11f) == float_to_f16(1.0f));  // tie to even
  CHECK(float_to_f16(1.0f + 3 * 0x1p-11f) == float_to_f16(1.0f + 4 * 0x1p-11f));
  CHECK(float_to_f16(65519.0f) == 0x7BFF);
  CHECK(float_to_f16(65520.0f) == 0x7C00);
  CHECK(float_to_f16(-0x1p-25f) == 0x8000);  // tie to even zero
}

TEST_CASE("half: bf16 rounds to nearest even and keeps NaN") {
  CHECK(float_to_bf16(1.0f + 0x1p-8f) == 0x3F80);
  CHECK(float_to_bf16(1.0f + 3 * 0x1p-8f) == 0x3F82);
  CHECK(std::isnan(bf16_to_float(float_to_bf16(std::nanf("")))));
}
