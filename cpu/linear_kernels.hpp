// SPDX-License-Identifier: Apache-2.0
#pragma once
// What the matrix kernels of all instruction sets share: the packed layouts and a table of
// functions. Included by cpu/linear*.cpp only.
//
// Integer weights. A tile is 64 rows; for every 32 columns it has one record, records in column
// order, so that a tile is one linear stream:
//   quants   8 bit: [8 steps of 4 columns][64 rows][4 columns] bytes
//            4 bit: [4 steps of 8 columns][64 rows][4 bytes]; byte j has column j of the step in
//                   its low half and column 4 + j in its high one
//   scales   [32 / group][64 rows] f16 or f32
//   minima   the same shape, only for types that have them
// A weight is scale * (quant - offset) + minimum. Four unsigned quants of a row stand side by side,
// which is what vpdpbusd multiplies with four signed 8-bit activations.
//
// Activations are 16-bit integers q = 256 * high + low in `exact` and 8-bit ones in `fast`. The
// AVX-512 path keeps them as planes of bytes: two for exact, one for fast; high and low bytes of a
// row are to the kernels what two rows are. What it knows of a block stands in front of its quants.
// The portable path keeps 16-bit words, and AVX2 both: its byte multiply-adds would saturate with
// 8-bit weights. |sum| <= 32 * 255 * 32512 < 2^31.
//
// Scales of activations have few bits (block_scale): with f16 scales of weights all products but
// the last sum are exact, and all paths give the same integers and products.
//
// Float weights: a tile is [columns][64 rows] in the type of the file.
//
// The order of float operations, the same for every number of rows of x (and so are the bits):
//   integer  y = 0; per group: y = fma(int_sum, scale * x_scale, y); y = fma(minimum, x_sum, y)
//   float    y = sum over chunks of 64 columns of (fma chain from 0 over the chunk)

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "cpu/arena.hpp"
#include "cpu/linear.hpp"

namespace foretoken::cpu {

struct linear_kernels;

constexpr int block_columns = 32;
constexpr int float_chunk_columns = 64;
constexpr int exact_quant_max = 32512;  // 127 * 256: both bytes fit int8
constexpr int fast_quant_max = 127;

// The scale of a block of activations in `exact` is a power of two: half a bit of 16 that does not
// show. In `fast` it is one of these times a power of two, which costs a tenth of a bit of 8.
constexpr float scale_factors[] = {1, 1.25f, 1.5f, 1.75f};

struct block_scale {
  float power = 0;  // of two; 0 for a block of zeros, NaN for one with values that are not finite
  int factor = 0;   // number in scale_factors
  float value() const noexcept { return power * scale_factors[factor]; }
};

// Magnitudes, as bits of a float, that count as not finite (2^90: kernels keep sums as mantissas),
// and those that count as 0.
constexpr std::uint32_t magnitude_limit = (127u + 90) << 23;
constexpr float magnitude_least = 1e-30f;

// The least scale with which the largest magnitude, as bits of a float, stays within the quants.
inline block_scale scale_for(std::uint32_t largest, int planes) noexcept {
  constexpr std::uint32_t one = 1u << 23;  // of an exponent
  constexpr std::uint32_t quarter = one / 4;
  if (largest >= magnitude_limit) return {std::numeric_limits<float>::quiet_NaN(), 0};
  const float magnitude = std::bit_cast<float>(largest);
  if (magnitude < magnitude_least) return {};
  const bool exact = planes == 2;
  const float least = magnitude / static_cast<float>(exact ? exact_quant_max : fast_quant_max);
  const auto bits = std::bit_cast<std::uint32_t>(least);
  const std::uint32_t step = exact ? one : quarter;
  const std::uint32_t up = (bits + step - 1) / step * step;
  return {std::bit_cast<float>(up / one * one), static_cast<int>(up % one / quarter)};
}

// What the AVX-512 kernels read of a block besides its quants. Both are one record: a tile of gate
// and up gives one block of each row, and every array that a block had a part in would be a line
// more to be taken from the other threads.
struct block_terms {
  std::int32_t start;   // bits that sums of the first plane begin with; see quantise_avx512.cpp
  std::int32_t second;  // of the second plane; in `fast` the number in scale_factors
  float sum;            // scale * sum of the quants
  float scale;
};

struct activations::storage {
  int rows_max = 0;
  int planes = 0;          // 2: exact, 1: fast, 0: floats only
  std::size_t stride = 0;  // columns, padded to whole blocks
  std::size_t blocks = 0;  // stride / 32
  const linear_kernels* kernels = nullptr;
  memory_block memory;
  float* values = nullptr;        // [rows][stride], or null
  std::byte* records = nullptr;   // [rows][blocks]: block_terms, [planes][32] quants; or null
  std::int8_t* bytes = nullptr;   // [rows][blocks][planes][32], high bytes first; or null
  std::int16_t* words = nullptr;  // [rows][stride], or null
  // Without records:
  float* scales = nullptr;           // [rows][blocks]
  float* sums = nullptr;             // [rows][blocks]: scale * sum of the quants
  std::int32_t* int_sums = nullptr;  // [rows][2 * blocks]: sum of the quants per 16
  // With records, only where matrices read groups. The starts are bits that sums of weights with
  // an offset begin with; see quantise_avx512.cpp.
  std::int32_t* offset_starts = nullptr;  // [rows][blocks][planes][8]
  float* half_sums = nullptr;             // [rows][2 * blocks]: scale * sum of the quants per 16

  std::size_t row(int m) const noexcept { return static_cast<std::size_t>(m) * stride; }
  std::size_t block(int m) const noexcept { return static_cast<std::size_t>(m) * blocks; }
  std::size_t record_bytes() const noexcept {
    return sizeof(block_terms) + static_cast<std::size_t>(planes * block_columns);
  }
  std::byte* record(std::size_t at) const noexcept { return records + at * record_bytes(); }
  float scale(std::size_t at) const noexcept {
    return records ? reinterpret_cast<const block_terms*>(record(at))->scale : scales[at];
  }
  // The scale of a block and the sums of its quants' halves. REQUIRES no records.
  void put_sums(std::size_t at, float scale, std::int32_t first, std::int32_t second) const {
    scales[at] = scale;
    sums[at] = scale * static_cast<float>(first + second);
    half_sums[2 * at] = scale * static_cast<float>(first);
    half_sums[2 * at + 1] = scale * static_cast<float>(second);
    int_sums[2 * at] = first;
    int_sums[2 * at + 1] = second;
  }
};

// Blocks of 32 values to be quantised: the first one's values and its number over all rows, and the
// way to the next.
struct block_walk {
  const float* x = nullptr;
  std::size_t x_step = 0;
  std::size_t at = 0;
  std::size_t at_step = 0;
  int count = 0;
  const float* values(int i) const noexcept { return x + static_cast<std::size_t>(i) * x_step; }
  std::size_t block(int i) const noexcept { return at + static_cast<std::size_t>(i) * at_step; }
  void skip(int taken) noexcept {
    x = values(taken);
    at = block(taken);
    count -= taken;
  }
};

struct integer_form {
  int bits = 4;              // 4 or 8
  int group = 32;            // columns of one scale: 32 or 16
  bool wide_scales = false;  // f32 instead of f16
  bool has_minima = false;
  int offset = 0;

  constexpr int groups() const noexcept { return block_columns / group; }
  constexpr bool reads_groups() const noexcept { return offset != 0 || group != block_columns; }
  constexpr std::size_t quant_bytes() const noexcept {
    return static_cast<std::size_t>(block_columns * tile_rows * bits / 8);
  }
  constexpr std::size_t scale_bytes() const noexcept {
    return static_cast<std::size_t>(groups() * tile_rows * (wide_scales ? 4 : 2));
  }
  constexpr std::size_t record_bytes() const noexcept {
    return quant_bytes() + scale_bytes() * (has_minima ? 2u : 1u);
  }
};

enum class float_form { f32, f16, bf16 };

// A tile's records, and what is read after them: asked for on the way, a line at a time between the
// multiplications, so that the stream does not stop for arithmetic. Null: nothing known.
struct integer_stream {
  const std::byte* records = nullptr;
  reads_after after;
  int blocks = 0;
};

struct row_range {
  int begin = 0, end = 0;
};

// A tile's output: y[m * stride + row of the tile].
struct tile_output {
  float* y = nullptr;
  std::size_t stride = 0;
};

struct linear_kernels {
  bool records = false;  // how quants are kept: in records, or in one or both of the others
  bool bytes = false;
  bool words = false;
  void (*quantise)(const activations::storage& to, const block_walk& walk);
  void (*integer_tile)(const integer_stream& tile,
                       const integer_form& form,
                       const activations::storage& x,
                       row_range rows,
                       tile_output out);
  void (*float_tile)(const std::byte* values,
                     int columns,
                     float_form form,
                     const activations::storage& x,
                     row_range rows,
                     tile_output out);
};

// REQUIRES a path that choose_isa() returned.
const linear_kernels& kernels_of(isa path) noexcept;
extern const linear_kernels portable_kernels;
#if defined(__x86_64__)
extern const linear_kernels avx2_kernels;
extern const linear_kernels avx512_kernels;
#endif

}  // namespace foretoken::cpu
