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
    const group_scales groups(v.z, v.w);
    a[0] = groups.apply(pick_bytes(v.x, 0x64646464u, 0x4140), 0);
    a[1] = groups.apply(pick_bytes(v.x, 0x64646464u, 0x4342), 1);
    a[2] = groups.apply(pick_bytes(v.y, 0x64646464u, 0x4140), 0);
    a[3] = groups.apply(pick_bytes(v.y, 0x64646464u, 0x4342), 1);
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
    const std::uint32_t codes = *reinterpret_cast<const std::uint32_t*>(slot);
    const group_scales groups(scales.x, scales.y);
    FORETOKEN_UNROLL
    for (int r = 0; r < 4; ++r) {
      a[r] = groups.apply((codes >> (4 * r) & 0x000F000Fu) | 0x64006400u, r % 2);
    }
  }
};

constexpr int round_steps = 4;  // k-steps that are copied and waited for together

// One warp's stream of weights, tile after tile: rounds are copied in order into a ring of slots.
template <weight_form Form, int Rounds>
struct weight_ring {
  const packed_matrix& w;
  unsigned char* slots;  // the lane's part of the warp's Rounds * round_steps slots
  int steps, first_step, tiles,
      stride;  // of a segment; where it starts; of the matrix; to the next
  int tile, step = 0, ring = 0;

  // Copies the next round into the slots of the oldest.
  FORETOKEN_DEVICE void copy_round(int lane) {
    if (tile < tiles) {
      const fragment_source<Form> from(w, tile, steps * 4, lane);
      FORETOKEN_UNROLL
      for (int k = 0; k < round_steps; ++k) {
        if (step + k < steps) {
          from.copy(slots + (ring * round_steps + k) * slot_bytes, first_step + step + k);
        }
      }
    }
    copy_async_commit();
    ring = ring + 1 == Rounds ? 0 : ring + 1;
    step += round_steps;
    if (step >= steps) {
      step = 0;
      tile += stride;
    }
  }
};

}  // namespace foretoken::gpu
