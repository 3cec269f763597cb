// SPDX-License-Identifier: Apache-2.0
#pragma once
// Rows of a model's matrices on their way into a packed matrix: chosen, put in order, padded,
// rounded.

#include <cstdint>
#include <vector>

#include "gpu/kernels.hpp"
#include "gpu/packing.hpp"
#include "model/hyperparameters.hpp"
#include "model/tensor.hpp"

namespace foretoken::gpu {

// A matrix made of rows of others. Column c of a source is group c / from, place c % from of it; in
// the packed matrix groups are `to` >= `from` wide, the rest zero.
struct matrix_source {
  struct row {
    const model::tensor* part = nullptr;  // null = a row of zeros
    std::int64_t index = 0;
  };
  std::vector<row> rows;  // in packed order, whole 16s
  int groups = 1, from = 0, to = 0;
  int columns() const noexcept { return groups * to; }
};

matrix_source plain_source(const model::tensor& part);
// The logical rows of `shape` (padded heads) from a file whose heads have head_dim values and
// `pairs` rotated pairs.
matrix_source qkv_source(const model::tensor& q,
                         const model::tensor& k,
                         const model::tensor& v,
                         const model::hyperparameters& file,
                         const model::hyperparameters& padded,
                         int pairs);
matrix_source gate_up_source(const model::tensor& gate, const model::tensor& up, int ffn);
// The same rows of a vector that has one value a row of the matrix ([1, rows] tensors): biases.
// An empty tensor gives zeros.
std::vector<float> ordered_bias(const matrix_source& matrix,
                                const model::tensor& part,
                                const model::tensor& of,
                                std::vector<float> into);

// The form in which every row of the matrix can be kept exactly.
weight_form kept_form(const matrix_source& matrix);

// A whole matrix of 4-bit groups, row after row. REQUIRES kept_form() == w4.
struct coded_rows {
  std::vector<std::uint8_t> codes;            // [rows][columns]
  std::vector<std::uint16_t> scale, minimum;  // [rows][columns / 32], f16
};
coded_rows read_codes(const model::tensor& part);

// Packs rows [first, first + count), whole 16s, as a matrix of their own. row_scale [count].
void pack_rows_f16(
    const matrix_source& matrix, int first, int count, std::byte* codes, float* row_scale);
void pack_rows_kept(const matrix_source& matrix,
                    weight_form form,
                    int first,
                    int count,
                    std::byte* codes,
                    std::uint32_t* scales);

}  // namespace foretoken::gpu
