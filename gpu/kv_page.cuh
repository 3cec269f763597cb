// SPDX-License-Identifier: Apache-2.0
#pragma once
// One head's keys and values of a page of 16 positions, as they are kept and as a lane reads them.
//   f16:  keys [16 x head_dim], values [16 x head_dim], A fragments of 16 x 16 (numerics.cuh)
//   int8: the same places, a byte each, 128 + code; then f16 scales: keys [16], values [16]
//         value = scale * code, scale = f16(largest / 127) of the position's head
// A score is multiplied by its key's scale in float; a value becomes f16(scale * code).

#include "gpu/kernels.hpp"
#include "gpu/numerics.cuh"

namespace foretoken::gpu {

template <kv_form Form>
struct kv_fragment;  // a lane's part of one: 8 values

template <>
struct kv_fragment<kv_form::f16> {
  static constexpr int size = 256;  // of a fragment, in f16 values
  u32x4 v{0, 0, 0, 0};
  FORETOKEN_DEVICE void load(const std::uint16_t* fragment, int lane) {
    v = *reinterpret_cast<const u32x4*>(fragment + lane * 8);
  }
  FORETOKEN_DEVICE void halves(std::uint32_t (&a)[4]) const {
    a[0] = v.x;
    a[1] = v.y;
    a[2] = v.z;
    a[3] = v.w;
  }
};

template <>
struct kv_fragment<kv_form::int8> {
  static constexpr int size = 128;
  u32x2 v{0, 0};
  FORETOKEN_DEVICE void load(const std::uint16_t* fragment, int lane) {
    v = *reinterpret_cast<const u32x2*>(fragment + lane * 4);
  }
  // The codes as f16, exactly: 0x6400 + byte is 1024 + 128 + code.
  FORETOKEN_DEVICE void halves(std::uint32_t (&a)[4]) const {
    a[0] = half_pair_subtract(pick_bytes(v.x, 0x64646464u, 0x4140), 0x64806480u);
    a[1] = half_pair_subtract(pick_bytes(v.x, 0x64646464u, 0x4342), 0x64806480u);
    a[2] = half_pair_subtract(pick_bytes(v.y, 0x64646464u, 0x4140), 0x64806480u);
    a[3] = half_pair_subtract(pick_bytes(v.y, 0x64646464u, 0x4342), 0x64806480u);
  }
};

// Scales of one page for a lane; none for f16.
template <kv_form Form>
struct kv_scales {
  FORETOKEN_DEVICE void load(const std::uint16_t*, int, int) {}
  FORETOKEN_DEVICE float score(float s, int) const { return s; }
  FORETOKEN_DEVICE void values(std::uint32_t (&)[4]) const {}
};

template <>
struct kv_scales<kv_form::int8> {
  float key[2] = {0, 0};            // of tokens g and g + 8
  std::uint32_t value[2] = {0, 0};  // of tokens 2q, 2q + 1 and those 8 later
  FORETOKEN_DEVICE void load(const std::uint16_t* page, int head_dim, int lane) {
    const std::uint16_t* const scales = page + 16 * head_dim;
    key[0] = float_of(scales[lane / 4]);
    key[1] = float_of(scales[lane / 4 + 8]);
    const auto* const pairs = reinterpret_cast<const std::uint32_t*>(scales + 16);
    value[0] = pairs[lane % 4];
    value[1] = pairs[lane % 4 + 4];
  }
  FORETOKEN_DEVICE float score(float s, int upper) const { return s * key[upper]; }
  FORETOKEN_DEVICE void values(std::uint32_t (&a)[4]) const {
    FORETOKEN_UNROLL
    for (int i = 0; i < 4; ++i) a[i] = half_pair_fma(value[i / 2], a[i], 0);
  }
};

// What one position's key or value of a head becomes.
struct kv_coder {
  std::uint16_t scale_half;
  float scale;
  FORETOKEN_DEVICE explicit kv_coder(float largest)
      : scale_half(half_of(largest / 127.0f)), scale(float_of(scale_half)) {}
  FORETOKEN_DEVICE unsigned char code(float v) const {
    const float steps = scale > 0 ? larger(-127.0f, smaller(127.0f, v / scale)) : 0.0f;
    return static_cast<unsigned char>(128 + static_cast<int>(rintf(steps)));
  }
};

}  // namespace foretoken::gpu
