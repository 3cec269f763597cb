// SPDX-License-Identifier: Apache-2.0
#pragma once
// Packed weights on their way to the tensor cores: a lane copies its part of a fragment into a slot
// of shared memory long before it is used, reads it back, and makes f16 of it.

#include "gpu/device.cuh"
#include "gpu/kernels.hpp"

namespace foretoken::gpu {

constexpr int slot_bytes = 512;  // of one fragment in shared memory, 16 a lane, whatever the form

template <weight_form Form>
struct fragment_source;

// One tile's stream, the lane's part of it.
template <>
struct fragment_source<weight_form::f16> {
  const unsigned char* at = nullptr;
  fragment_source() = default;
  FORETOKEN_DEVICE fragment_source(const packed_matrix& w, int tile, int steps, int lane)
      : at(static_cast<const unsigned char*>(w.codes) + wide(tile) * wide(steps) * 512 +
           wide(lane) * 16) {}
  FORETOKEN_DEVICE void copy(unsigned char* slot, int step) const {
    copy_async_16(slot, at + wide(step) * 512);
  }
  FORETOKEN_DEVICE static void decode(const unsigned char* slot, std::uint32_t (&a)[4]) {
    const u32x4 v = *reinterpret_cast<const u32x4*>(slot);
    a[0] = v.x;
    a[1] = v.y;
    a[2] = v.z;
    a[3] = v.w;
  }
};

// scale and minimum of the lane's two rows, doubled into both halves
struct group_scales {
  std::uint32_t scale[2], minimum[2];
  FORETOKEN_DEVICE group_scales(std::uint32_t low, std::uint32_t high) {
    scale[0] = pick_bytes(low, low, 0x1010);
    minimum[0] = pick_bytes(low, low, 0x3232);
    scale[1] = pick_bytes(high, high, 0x1010);
    minimum[1] = pick_bytes(high, high, 0x3232);
  }
  // 1024 + code in both halves (an exact f16) to scale * code + minimum
  FORETOKEN_DEVICE std::uint32_t apply(std::uint32_t biased, int row) const {
    return half_pair_fma(scale[row], half_pair_subtract(biased, 0x64006400u), minimum[row]);
  }
};

// Fragments of 8-bit and of 4-bit codes.
FORETOKEN_DEVICE void decode_codes(std::uint32_t x,
                                   std::uint32_t y,
                                   const group_scales& groups,
                                   std::uint32_t (&a)[4]) {
  a[0] = groups.apply(pick_bytes(x, 0x64646464u, 0x4140), 0);
  a[1] = groups.apply(pick_bytes(x, 0x64646464u, 0x4342), 1);
  a[2] = groups.apply(pick_bytes(y, 0x64646464u, 0x4140), 0);
  a[3] = groups.apply(pick_bytes(y, 0x64646464u, 0x4342), 1);
}
FORETOKEN_DEVICE void decode_codes(std::uint32_t codes,
                                   const group_scales& groups,
                                   std::uint32_t (&a)[4]) {
  FORETOKEN_UNROLL
  for (int r = 0; r < 4; ++r) {
    a[r] = groups.apply((codes >> (4 * r) & 0x000F000Fu) | 0x64006400u, r % 2);
  }
}

// A slot of 8 bits: codes x, y; of 4: codes x. Scales of the lane's rows in z and w.
struct quantised_source {
  const unsigned char* at = nullptr;
  const std::uint32_t* scales = nullptr;
  quantised_source() = default;
  FORETOKEN_DEVICE quantised_source(
      const packed_matrix& w, int tile, int steps, int lane, int bytes)
      : at(static_cast<const unsigned char*>(w.codes) +
           (wide(tile) * wide(steps) * 32 + wide(lane)) * wide(bytes)),
        scales(w.scales + wide(tile) * wide(steps) * 8 + wide(lane / 4)) {}
  FORETOKEN_DEVICE void copy_scales(unsigned char* slot, int step) const {
    const std::uint32_t* s = scales + wide(step / 2) * 16;
    copy_async_small<4>(slot + 8, s);
    copy_async_small<4>(slot + 12, s + 8);
  }
};

template <>
struct fragment_source<weight_form::w8> : quantised_source {
  fragment_source() = default;
  FORETOKEN_DEVICE fragment_source(const packed_matrix& w, int tile, int steps, int lane)
      : quantised_source(w, tile, steps, lane, 8) {}
  FORETOKEN_DEVICE void copy(unsigned char* slot, int step) const {
    copy_async_small<8>(slot, at + wide(step) * 256);
    copy_scales(slot, step);
  }
  FORETOKEN_DEVICE static void decode(const unsigned char* slot, std::uint32_t (&a)[4]) {
    const u32x4 v = *reinterpret_cast<const u32x4*>(slot);
    decode_codes(v.x, v.y, group_scales(v.z, v.w), a);
  }
};

template <>
struct fragment_source<weight_form::w4> : quantised_source {
  fragment_source() = default;
  FORETOKEN_DEVICE fragment_source(const packed_matrix& w, int tile, int steps, int lane)
      : quantised_source(w, tile, steps, lane, 4) {}
  FORETOKEN_DEVICE void copy(unsigned char* slot, int step) const {
    copy_async_small<4>(slot, at + wide(step) * 128);
    copy_scales(slot, step);
  }
  FORETOKEN_DEVICE static void decode(const unsigned char* slot, std::uint32_t (&a)[4]) {
    const u32x2 scales = *reinterpret_cast<const u32x2*>(slot + 8);
    decode_codes(*reinterpret_cast<const std::uint32_t*>(slot), group_scales(scales.x, scales.y),
                 a);
  }
};

constexpr int round_steps = 4;  // k-steps that are copied and waited for together

// A round of one warp in shared memory: f16 fragments each lane copies for itself; codes come as
// they stand in memory, 16 bytes a lane whoever uses them, with the scales of their groups of two
// steps behind them: 2 or 3 copies a lane instead of 12, and a warp meets before and after.
template <weight_form Form>
struct weight_round {
  static constexpr int step_bytes = Form == weight_form::w8 ? 256 : 128;  // of codes
  static constexpr int scales_at = round_steps * step_bytes;
  static constexpr int bytes = scales_at + (round_steps / 2 + 1) * 64;
  static constexpr bool shared = true;
  // `count` steps of `tile`, from `step` of its tile_steps on.
  FORETOKEN_DEVICE static void copy(
      const packed_matrix& w, int tile, int tile_steps, int step, int count, unsigned char* to) {
    const int at = thread_index() % 32 * 16;
    const auto* const codes = static_cast<const unsigned char*>(w.codes) +
                              (wide(tile) * wide(tile_steps) + wide(step)) * step_bytes;
    FORETOKEN_UNROLL
    for (int i = 0; i < scales_at; i += 512) {
      if (i + at < count * step_bytes) copy_async_16(to + i + at, codes + i + at);
    }
    const auto* const scales = reinterpret_cast<const unsigned char*>(
        w.scales + wide(tile) * wide(tile_steps) * 8 + wide(step / 2) * 16);
    if (at < (step % 2 + count + 1) / 2 * 64) copy_async_16(to + scales_at + at, scales + at);
  }
  // Step k of the round; odd: whether the round begins in the middle of a group.
  FORETOKEN_DEVICE static void decode(
      const unsigned char* from, int k, int odd, int lane, std::uint32_t (&a)[4]) {
    const auto* const scale = reinterpret_cast<const std::uint32_t*>(
        from + scales_at + (odd + k) / 2 * 64 + lane / 4 * 4);
    const group_scales groups(scale[0], scale[8]);
    if constexpr (Form == weight_form::w8) {
      const u32x2 codes = *reinterpret_cast<const u32x2*>(from + k * step_bytes + lane * 8);
      decode_codes(codes.x, codes.y, groups, a);
    } else {
      decode_codes(*reinterpret_cast<const std::uint32_t*>(from + k * step_bytes + lane * 4),
                   groups, a);
    }
  }
};
template <>
struct weight_round<weight_form::f16> {
  static constexpr int bytes = round_steps * slot_bytes;
  static constexpr bool shared = false;
  FORETOKEN_DEVICE static void copy(
      const packed_matrix& w, int tile, int tile_steps, int step, int count, unsigned char* to) {
    const int lane = thread_index() % 32;
    const fragment_source<weight_form::f16> from(w, tile, tile_steps, lane);
    FORETOKEN_UNROLL
    for (int k = 0; k < round_steps; ++k) {
      if (k < count) from.copy(to + k * slot_bytes + lane * 16, step + k);
    }
  }
  FORETOKEN_DEVICE static void decode(
      const unsigned char* from, int k, int, int lane, std::uint32_t (&a)[4]) {
    fragment_source<weight_form::f16>::decode(from + k * slot_bytes + lane * 16, a);
  }
};

// One warp's stream of weights, tile after tile: rounds are copied in order into a ring.
template <weight_form Form>
struct weight_ring {
  using round = weight_round<Form>;
  const packed_matrix& w;
  unsigned char* places;  // the warp's
  int rounds;
  int steps, first_step, tiles,
      stride;  // of a segment; where it starts; of the matrix; to the next
  int tile, step = 0, next = 0;

  // Copies the next round into the place of the oldest.
  FORETOKEN_DEVICE void copy_round() {
    if (tile < tiles) {
      const int left = steps - step;
      round::copy(w, tile, steps * 4, first_step + step, left < round_steps ? left : round_steps,
                  places + next * round::bytes);
    }
    copy_async_commit();
    next = next + 1 == rounds ? 0 : next + 1;
    step += round_steps;
    if (step >= steps) {
      step = 0;
      tile += stride;
    }
  }
};

}  // namespace foretoken::gpu
