// SPDX-License-Identifier: Apache-2.0
#pragma once
// Logits as whole numbers in the same order.

#include "gpu/device.cuh"

namespace foretoken::gpu {

constexpr std::uint32_t order_broken = 0xFFFFFFFFu;  // of what is no number, above all others

// -0 is 0: ties go to the lower id whatever their sign.
FORETOKEN_DEVICE std::uint32_t ordered_bits(float v) {
  const std::uint32_t bits = float_bits(v + 0.0f);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}
FORETOKEN_DEVICE float from_ordered(std::uint32_t order) {
  return bits_float((order & 0x80000000u) != 0 ? order & 0x7FFFFFFFu : ~order);
}
FORETOKEN_DEVICE bool is_finite(float v) {
  return fabsf(v) <= 3.4028235e38f;
}
// Never 0.
FORETOKEN_DEVICE std::uint32_t logit_order(float v) {
  return is_finite(v) ? ordered_bits(v) : order_broken;
}

}  // namespace foretoken::gpu
