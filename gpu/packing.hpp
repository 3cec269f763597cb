// SPDX-License-Identifier: Apache-2.0
#pragma once
// Weights in the order in which the tensor cores take them. Host code; no CUDA.
//
// A tile is 16 rows. A k-step of a tile is the A fragment of mma.m16n8k16: 32 lanes times 8 values;
// value j of lane l is row l/4 + 8 * (j/2 % 2), column 2 * (l%4) + 8 * (j/4) + j%2 of the 16 x 16.
//   f16: 8 halves a lane, 16 bytes. w8: 8 codes, 8 bytes (0..255). w4: 4 bytes, code j in nibble
//   nibble_of(j) of the word, so that pairs fall out of one shift.
// scales: [tile][group of 32 columns][16 rows] {f16 scale, f16 minimum}.

#include <cstdint>
#include <span>
#include <vector>

#include "gpu/kernels.hpp"

namespace foretoken::gpu {

// order[i] = the model's row that packed row i holds; -1 = a row of zeros. Whole 16s.
using row_order = std::vector<std::int32_t>;

row_order plain_order(int rows);
// Rows q, k, v one below the other in the model. The two values of a rotary pair stand in rows r
// and r + 8 of a tile.
row_order qkv_order(int heads, int kv_heads, int head_dim, int pairs, bool neighbours);
// gate[ffn] then up[ffn] in the model. gate j and up j stand in rows r and r + 8 of a tile.
row_order gate_up_order(int ffn);

std::size_t packed_code_bytes(weight_form form, int rows, int columns);
std::size_t packed_scale_bytes(weight_form form, int rows, int columns);

// One k-step tile order for 16-bit weights. values: [source rows][columns] f16 bits, row-major.
// `codes`: packed_code_bytes(f16, order.size(), columns).
void pack_f16(std::span<const std::uint16_t> values,
              int columns,
              const row_order& order,
              std::byte* codes);
// Codes 0..255 or 0..15 [source rows][columns]; scale and minimum [source rows][columns / 32] f16
// bits. weight = scale * code + minimum.
void pack_quantised(weight_form form,
                    std::span<const std::uint8_t> values,
                    std::span<const std::uint16_t> scale,
                    std::span<const std::uint16_t> minimum,
                    int columns,
                    const row_order& order,
                    std::byte* codes,
                    std::uint32_t* scales);

// round_to_f16(scale * code + minimum) with one rounding: the definition the kernels match.
std::uint16_t dequantised_f16(std::uint16_t scale, std::uint16_t minimum, int code);

// Bias or row scale in the packed order; `missing` for rows of zeros.
std::vector<float> ordered(std::span<const float> values, const row_order& order, float missing);

}  // namespace foretoken::gpu
