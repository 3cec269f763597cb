// SPDX-License-Identifier: Apache-2.0
#pragma once
// What the matrix kernels of all instruction sets share: the packed layouts and a table of
// functions. Included by cpu/linear*.cpp only.
//
// Integer weights. A tile is 64 rows; for every 32 columns it has one record, records in column
// order, so that a tile is one linear stream:
//   quants   4 bit: [4 steps of 8 columns][64 rows][2 halves] 16-bit words; nibble j of half h is
//   the
//                   column 2j + h of the step
//            8 bit: [8 steps of 4 columns][64 rows][2 halves] words; byte j of half h: column 2j +
//            h
//   scales   [32 / group][64 rows] f16 or f32
//   minima   the same shape, only for types that have them
// A weight is scale * (quant - offset) + minimum. Masks and shifts turn the words into 16-bit
// weights that stand beside pairs of neighbouring columns, which multiply-add instructions take as
// they are.
//
// Activations are 16-bit integers: vpdpwssd takes them at the rate at which vpdpbusd takes 8-bit
// ones, so one pass does what two passes over a high and a low byte would, with the same exact
// int32 sums. |sum| <= 32 * 255 * 32512 < 2^31.
//
// Float weights: a tile is [columns][64 rows] in the type of the file.
//
// The order of float operations, the same for every number of rows of x (and so are the bits):
//   integer  y = 0; per group: y = fma(int_sum, scale * x_scale, y); y = fma(minimum, x_sum, y)
//   float    y = sum over chunks of 64 columns of (fma chain from 0 over the chunk)

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cpu/arena.hpp"
#include "cpu/linear.hpp"

namespace foretoken::cpu {

constexpr int block_columns = 32;
constexpr int float_chunk_columns = 64;
constexpr int activation_quant_max = 32512;  // 127 * 256: hi and lo both fit int8

struct activations::storage {
  int rows_max = 0;
  std::size_t stride = 0;  // columns, padded to whole chunks with zeros
  std::size_t blocks = 0;  // stride / 32
  memory_block memory;
  float* values = nullptr;           // [rows][stride]
  std::int16_t* quants = nullptr;    // [rows][stride]
  float* scales = nullptr;           // [rows][blocks]
  float* sums = nullptr;             // [rows][blocks]: scale * sum of the quants
  float* half_sums = nullptr;        // [rows][2 * blocks]: the same per 16 columns
  std::int32_t* int_sums = nullptr;  // [rows][2 * blocks]: sum of the quants per 16 columns

  std::size_t row(int m) const noexcept { return static_cast<std::size_t>(m) * stride; }
  std::size_t block(int m) const noexcept { return static_cast<std::size_t>(m) * blocks; }
};

struct integer_form {
  int bits = 4;              // 4 or 8
  int group = 32;            // columns of one scale: 32 or 16
  bool wide_scales = false;  // f32 instead of f16
  bool has_minima = false;
  int offset = 0;

  constexpr int groups() const noexcept { return block_columns / group; }
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

struct row_range {
  int begin = 0, end = 0;
};

// A tile's output: y[m * stride + row of the tile].
struct tile_output {
  float* y = nullptr;
  std::size_t stride = 0;
};

struct linear_kernels {
  void (*quantise)(const activations::storage& to, int row, int blocks);  // from to.values
  void (*integer_tile)(const std::byte* records,
                       int blocks,
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
