// SPDX-License-Identifier: Apache-2.0
#pragma once
// One unit of a product: a tile of 16 weight rows times one segment of K for the rows of a lane.
//   sum[n][row] += f16(d q + m)[n][k] x[row][k], m16n8k16, weights from a record in shared memory
//   (cluster_layout.hpp), x as B fragments, 32 bytes a row and k16 step (lane_inputs).
// A step of a tile is 256 weights: 13 instructions a lane to make them f16, 1.5 loads, one product
// for each 8 rows. Issue-bound: about 16 issue slots a step and scheduler where the tensor core
// needs 6.

#include "gpu/cluster_layout.hpp"
#include "gpu/cluster_sync.cuh"

namespace foretoken::gpu::cluster {

FORETOKEN_DEVICE __half2 as_half2(std::uint32_t v) {
  return *reinterpret_cast<__half2*>(&v);
}
FORETOKEN_DEVICE std::uint32_t as_bits(__half2 v) {
  return *reinterpret_cast<std::uint32_t*>(&v);
}

// (codes & Mask) | 0x64006400 in one instruction; from plain operators two come out.
template <std::uint32_t Mask>
FORETOKEN_DEVICE std::uint32_t with_exponent(std::uint32_t codes) {
  std::uint32_t out;
  asm("lop3.b32 %0,%1,%2,%3,0xEA;" : "=r"(out) : "r"(codes), "n"(Mask), "n"(0x64006400u));
  return out;
}

// Four f16 pairs of eight codes: 1024 + q and 1024 + 16 q are f16 bit patterns; q comes out exact.
struct four_pairs {
  std::uint32_t a[4];
};
FORETOKEN_DEVICE four_pairs decode(std::uint32_t codes,
                                   std::uint32_t low_row,
                                   std::uint32_t high_row) {
  const __half2 d0 = __low2half2(as_half2(low_row)), m0 = __high2half2(as_half2(low_row));
  const __half2 d1 = __low2half2(as_half2(high_row)), m1 = __high2half2(as_half2(high_row));
  const __half2 bias = as_half2(0x64006400u), sixteenth = as_half2(0x2C002C00u);
  const __half2 minus_64 = as_half2(0xD400D400u);
  const std::uint32_t upper = codes >> 8;
  const __half2 q0 = __hsub2(as_half2(with_exponent<0x000F000Fu>(codes)), bias);
  const __half2 q1 = __hfma2(as_half2(with_exponent<0x00F000F0u>(codes)), sixteenth, minus_64);
  const __half2 q2 = __hsub2(as_half2(with_exponent<0x000F000Fu>(upper)), bias);
  const __half2 q3 = __hfma2(as_half2(with_exponent<0x00F000F0u>(upper)), sixteenth, minus_64);
  return {{as_bits(__hfma2(q0, d0, m0)), as_bits(__hfma2(q1, d1, m1)), as_bits(__hfma2(q2, d0, m0)),
           as_bits(__hfma2(q3, d1, m1))}};
}

// What four steps read, all of it before the first product.
template <int Columns>
struct round_of_steps {
  u32x4 codes;
  u32x2 scale[4];
  u32x2 x[4][Columns];
};

// Where a lane's part of x stands: at[j] of step j, four steps later 4 step_bytes on; that of the
// rows from the ninth on `column` bytes on.
struct lane_inputs {
  const char* at[4];
  int column;
};
// The row of the second eight that lane row g reads: some row that is there.
template <int Rows>
FORETOKEN_DEVICE int second_row(int g) {
  return 8 + (Rows > 8 ? g % (Rows - 8) : 0);
}
template <int Rows>
FORETOKEN_DEVICE lane_inputs in_order(const char* first, int lane) {
  first += lane * 8;
  constexpr int step = step_bytes(Rows);
  return {{first, first + step, first + 2 * step, first + 3 * step},
          (second_row<Rows>(lane / 4) - lane / 4) * 32};
}

// Where a lane finds the weights of a unit.
template <int Steps>
struct record_reader {
  static constexpr int whole = Steps / 4 * 4;
  const char* codes;
  const char* last_codes;
  const char* even;  // scales of steps 0 and 2 of a round
  const char* odd;   // of steps 1 and 3
  FORETOKEN_DEVICE record_reader(const char* record, int segment, int lane)
      : codes(record + lane * 16),
        last_codes(record + whole * 128 + lane * 4),
        even(record + Steps * 128 + lane / 4 * 8),
        // An odd number of steps lets every other segment begin in the middle of a group.
        odd(even + Steps % 2 * 64 * (segment & 1)) {}
  FORETOKEN_DEVICE u32x2 scale(int j) const {
    return *reinterpret_cast<const u32x2*>((j % 2 == 0 ? even : odd) + j / 2 * 64);
  }
  FORETOKEN_DEVICE std::uint32_t last(int j) const {
    return *reinterpret_cast<const std::uint32_t*>(last_codes + j * 128);
  }
};

// A short unit's weights as f16, made before its inputs are awaited: what is left to do when they
// come is two instructions a step. (Not for longer units: what runs once is bound by the fetch of
// instructions, and a wait is too short for more; H200, 2026-11-30.)
template <int Steps>
struct decoded_unit {
  static_assert(Steps <= 9);  // 36 registers beside the lines of attention
  four_pairs step[Steps];
  FORETOKEN_DEVICE explicit decoded_unit(const record_reader<Steps>& from) {
    FORETOKEN_UNROLL
    for (int i = 0; i < Steps / 4; ++i) {
      const u32x4 codes = *reinterpret_cast<const u32x4*>(from.codes + i * 512);
      const std::uint32_t word[4] = {codes.x, codes.y, codes.z, codes.w};
      FORETOKEN_UNROLL
      for (int j = 0; j < 4; ++j) {
        const u32x2 scale = from.scale(4 * i + j);
        step[4 * i + j] = decode(word[j], scale.x, scale.y);
      }
    }
    FORETOKEN_UNROLL
    for (int j = 0; j < Steps % 4; ++j) {
      const u32x2 scale = from.scale(Steps / 4 * 4 + j);
      step[Steps / 4 * 4 + j] = decode(from.last(j), scale.x, scale.y);
    }
  }
};
template <int Rows, int Steps, int Columns>
FORETOKEN_DEVICE void multiply(float (&sum)[Columns][4],
                               const decoded_unit<Steps>& weights,
                               const lane_inputs& x) {
  FORETOKEN_UNROLL
  for (int j = 0; j < Steps; ++j) {
    FORETOKEN_UNROLL
    for (int c = 0; c < Columns; ++c) {
      const char* const at = x.at[j % 4] + j / 4 * 4 * step_bytes(Rows) + c * x.column;
      const u32x2 v = *reinterpret_cast<const u32x2*>(at);
      const std::uint32_t pair[2] = {v.x, v.y};
      mma_in_place(sum[c], weights.step[j].a, pair);
    }
  }
}

// Walks over the steps of one unit.
template <int Steps, int Rows>
struct unit_reader : record_reader<Steps> {
  static constexpr int columns = columns_of(Rows);
  using record_reader<Steps>::whole;
  using record_reader<Steps>::codes;
  using record_reader<Steps>::even;
  using record_reader<Steps>::odd;
  lane_inputs x;
  FORETOKEN_DEVICE unit_reader(const char* record, const lane_inputs& inputs, int segment, int lane)
      : record_reader<Steps>(record, segment, lane), x(inputs) {}
  FORETOKEN_DEVICE void load(round_of_steps<columns>& to, int steps) const {
    FORETOKEN_UNROLL
    for (int j = 0; j < steps; ++j) {
      to.scale[j] = this->scale(j);
      FORETOKEN_UNROLL
      for (int c = 0; c < columns; ++c) {
        to.x[j][c] = *reinterpret_cast<const u32x2*>(x.at[j] + c * x.column);
      }
    }
  }
  FORETOKEN_DEVICE void next(round_of_steps<columns>& to) {
    to.codes = *reinterpret_cast<const u32x4*>(codes);
    load(to, 4);
    codes += 512;
    even += 128;
    odd += 128;
    FORETOKEN_UNROLL
    for (int j = 0; j < 4; ++j) x.at[j] += 4 * step_bytes(Rows);
  }
  FORETOKEN_DEVICE void rest(round_of_steps<columns>& to) const {
    std::uint32_t word[4] = {};
    FORETOKEN_UNROLL
    for (int j = 0; j < Steps - whole; ++j) word[j] = this->last(j);
    to.codes = {word[0], word[1], word[2], word[3]};
    load(to, Steps - whole);
  }
};

template <int Steps, int Columns>
FORETOKEN_DEVICE void multiply(float (&sum)[Columns][4], const round_of_steps<Columns>& from) {
  const std::uint32_t word[4] = {from.codes.x, from.codes.y, from.codes.z, from.codes.w};
  FORETOKEN_UNROLL
  for (int j = 0; j < Steps; ++j) {
    const four_pairs w = decode(word[j], from.scale[j].x, from.scale[j].y);
    FORETOKEN_UNROLL
    for (int c = 0; c < Columns; ++c) {
      const std::uint32_t pair[2] = {from.x[j][c].x, from.x[j][c].y};
      mma_in_place(sum[c], w.a, pair);
    }
  }
}

// Sums of `Units` units side by side; the next round's words are on their way while one is used.
// Two rounds a turn of the loop: what runs once is bound by the fetch of instructions, about five
// cycles each, whatever it computes.
template <int Steps, int Rows, int Columns, int Units>
FORETOKEN_DEVICE void unit_sums(float (&sum)[Units][Columns][4],
                                unit_reader<Steps, Rows> (&reader)[Units]) {
  constexpr int rounds = Steps / 4, rest = Steps % 4;
  static_assert(rounds % 2 == 0 || rounds == 1 || rounds == 3);
  round_of_steps<Columns> now[Units], next[Units];
  const auto load = [&](round_of_steps<Columns>(&to)[Units]) {
    FORETOKEN_UNROLL
    for (int u = 0; u < Units; ++u) reader[u].next(to[u]);
  };
  const auto multiply_all = [&](const round_of_steps<Columns>(&from)[Units]) {
    FORETOKEN_UNROLL
    for (int u = 0; u < Units; ++u) multiply<4, Columns>(sum[u], from[u]);
  };
  load(now);
  FORETOKEN_UNROLL_BY(1)
  for (int i = 0; i < (rounds - 1) / 2; ++i) {
    load(next);
    multiply_all(now);
    load(now);
    multiply_all(next);
  }
  if constexpr (rounds % 2 == 0) load(next);
  round_of_steps<Columns> last[Units];
  if constexpr (rest != 0) {
    FORETOKEN_UNROLL
    for (int u = 0; u < Units; ++u) reader[u].rest(last[u]);
  }
  multiply_all(now);
  if constexpr (rounds % 2 == 0) multiply_all(next);
  if constexpr (rest != 0) {
    FORETOKEN_UNROLL
    for (int u = 0; u < Units; ++u) multiply<rest, Columns>(sum[u], last[u]);
  }
}

// A whole tile by one warp: ((s0 + s1) + s2) + s3, records at record(segment). All four segments
// side by side: three warps a scheduler leave a warp five cycles an instruction, and nothing else
// hides its latencies (gate and up 2,750 cycles; two and two 3,080, one after the other 3,370;
// H100, 2026-11-24).
template <int Steps, int Rows, int Columns, class Record>
FORETOKEN_DEVICE void tile_sums(float (&total)[Columns][4],
                                const char* rows,
                                const Record& record) {
  const int lane = thread_index() % 32;
  constexpr int apart = Steps * step_bytes(Rows);
  float sum[parts][Columns][4] = {};
  unit_reader<Steps, Rows> reader[parts] = {
      {record(0), in_order<Rows>(rows, lane), 0, lane},
      {record(1), in_order<Rows>(rows + apart, lane), 1, lane},
      {record(2), in_order<Rows>(rows + 2 * apart, lane), 2, lane},
      {record(3), in_order<Rows>(rows + 3 * apart, lane), 3, lane}};
  unit_sums(sum, reader);
  FORETOKEN_UNROLL
  for (int c = 0; c < Columns; ++c) {
    FORETOKEN_UNROLL
    for (int i = 0; i < 4; ++i) {
      total[c][i] = ((sum[0][c][i] + sum[1][c][i]) + sum[2][c][i]) + sum[3][c][i];
    }
  }
}

// Sums of a unit for the threads that finish the tile: [unit][row][16 places of fragment_place].
template <int Columns>
FORETOKEN_DEVICE void store_unit(float* unit, const float (&sum)[Columns][4], int rows) {
  const int lane = thread_index() % 32, g = lane / 4, q = lane % 4;
  const int place = g / 2 * 4 + g % 2;
  FORETOKEN_UNROLL
  for (int c = 0; c < Columns; ++c) {
    FORETOKEN_UNROLL
    for (int h = 0; h < 2; ++h) {
      const int row = 8 * c + 2 * q + h;
      if (row >= rows) continue;
      unit[row * 16 + place] = sum[c][h];
      unit[row * 16 + place + 2] = sum[c][2 + h];
    }
  }
}

// Two places of one row, segments added in order.
template <int Rows>
FORETOKEN_DEVICE f32x2 finished(const float* units, int row, int place) {
  const float* const at = units + row * 16 + place;
  f32x2 out = *reinterpret_cast<const f32x2*>(at);
  FORETOKEN_UNROLL
  for (int s = 1; s < parts; ++s) {
    const f32x2 next = *reinterpret_cast<const f32x2*>(at + s * 16 * Rows);
    out.x += next.x;
    out.y += next.y;
  }
  return out;
}

}  // namespace foretoken::gpu::cluster
