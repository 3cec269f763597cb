// SPDX-License-Identifier: Apache-2.0
#pragma once
// y = W x for packed weight matrices: the contract between the matrix kernels (cpu/linear_*.cpp)
// and the fused operations (cpu/backend.cpp and friends).
//
// A matrix of N rows is cut into tiles of `tile_rows` rows; a tile is one ticket of work. The value
// of y[m][n] depends on row m of x and row n of W only: never on which other rows stand beside it.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/result.hpp"
#include "cpu/options.hpp"
#include "cpu/read_list.hpp"
#include "cpu/row_kernels.hpp"
#include "cpu/thread_pool.hpp"
#include "model/tensor.hpp"

namespace foretoken::cpu {

constexpr int tile_rows = 64;

// What matrices read of their inputs besides quants with one scale and sum per 32 columns.
struct input_parts {
  bool floats = false;  // for float weights
  bool groups = false;  // for integer weights with an offset, or with groups of 16 columns
  input_parts operator|(const input_parts& other) const noexcept {
    return {floats || other.floats, groups || other.groups};
  }
};

// Rows of activations in the forms the kernels of a path read. For integer weights: quants with one
// scale per 32 columns, of 16 bits in `exact` and 8 bits in `fast`. For float weights, and in
// `float32`: the floats. Allocated once for rows_max rows of columns_max columns; filled per row by
// any thread.
class activations {
 public:
  // keep: what the matrices read that will be applied to them.
  activations(int rows_max, int columns_max, const options& chosen, input_parts keep);
  ~activations();
  activations(activations&&) noexcept;
  // Bytes of such an object.
  static std::uint64_t bytes(int rows_max,
                             int columns_max,
                             const options& chosen,
                             input_parts keep);
  // Row m from x[columns]. Rows may be filled by different threads.
  void set(int row, const float* x, int columns);
  // Columns [first, first + columns) of row m. REQUIRES first to be a multiple of 32, and columns
  // too unless these are the last ones.
  void set_part(int row, int first, const float* x, int columns);
  // Columns [first, first + 32) of rows [first_row, first_row + rows), from x[i * stride].
  // REQUIRES first to be a multiple of 32.
  void set_block(int first_row, int rows, int first, const float* x, std::size_t stride);
  // squares[b] = |x - what stands in row m|^2 over the b-th 32 columns. REQUIRES quants.
  void errors(int row, const float* x, int columns, float* squares) const noexcept;
  struct storage;
  const storage& get() const noexcept { return *storage_; }

 private:
  std::unique_ptr<storage> storage_;
};

// What a thread reads after a tile: asked for on the way.
struct reads_after {
  const std::byte* next = nullptr;  // at once, as much as the tile takes; null: nothing known
  read_list* later = nullptr;       // as far as many rows leave memory idle; the thread's own
};

class linear {
 public:
  // Packs `parts` one below the other (fused QKV; for `interleave16` with two parts of equal rows:
  // 16 rows of the first, 16 of the second, and so on, for gate and up). All parts have equal
  // columns and one storage type, or each is packed in its own kind internally. Quantised types
  // keep their own groups (lossless); f32, f16, bf16 stay as they are. With interleave16, rows are
  // first padded with zero rows to a multiple of 16 a part, so that rows() = 2 * padded rows. Parts
  // of different types share a pack when each but the last has a multiple of 64 rows; else all of
  // them become f32. Errors: invalid_argument (shapes), corrupt (too few bytes), unsupported (path
  // not on this CPU), exhausted; `field` names the tensor.
  static result<std::unique_ptr<const linear>> pack(std::span<const model::tensor> parts,
                                                    bool interleave16,
                                                    const options& chosen,
                                                    thread_pool& threads);
  // The same matrix before anything is packed into it.
  struct blank;
  static result<blank> lay_out(std::span<const model::tensor> parts,
                               bool interleave16,
                               const options& chosen);
  // A draft of a wide matrix: its weights rounded to 4 bits, each off by at most half of the scale
  // that it shares with the 32 columns around it. REQUIRES can_draft().
  static result<std::unique_ptr<const linear>> pack_draft(const model::tensor& wide,
                                                          const options& chosen,
                                                          thread_pool& threads);
  static result<blank> lay_out_draft(const model::tensor& wide, const options& chosen);
  virtual ~linear() = default;
  // All packed bytes, as lay_out() wants them back.
  virtual std::span<const std::byte> packed() const noexcept = 0;
  virtual int rows() const noexcept = 0;     // N
  virtual int columns() const noexcept = 0;  // K
  virtual std::uint64_t bytes() const noexcept = 0;
  virtual input_parts reads() const noexcept = 0;
  int tiles() const noexcept { return (rows() + tile_rows - 1) / tile_rows; }

  // Where the f16 scales of a draft's tile stand: for every 32 columns, those of the 64 rows.
  struct scale_places {
    const std::byte* first = nullptr;
    std::size_t stride = 0;  // bytes from those of 32 columns to the next
    int blocks = 0;
  };
  virtual scale_places scales(int tile) const noexcept = 0;
  // One column of a tile, as row_kernels reads it. REQUIRES 8-bit quants or floats.
  virtual matrix_column column(int tile, int k) const noexcept = 0;
  // Where the bytes of a tile begin.
  virtual const std::byte* tile_data(int tile) const noexcept = 0;
  // y[m * y_stride + (n - tile * tile_rows)] = W x for n in the tile, m in [row_begin, row_end).
  // y holds tile_rows floats a row even in the last tile (the rest is unspecified).
  virtual void apply(int tile,
                     const activations& x,
                     int row_begin,
                     int row_end,
                     float* y,
                     std::size_t y_stride,
                     reads_after after = {}) const = 0;
};

struct linear::blank {
  std::unique_ptr<const linear> matrix;
  std::span<std::byte> bytes;  // the matrix's own, zero; to be filled before it is used
};

// Bytes that pack() will take, computed before it does; 0 when pack() will refuse.
std::uint64_t packed_bytes(std::span<const model::tensor> parts,
                           const options& chosen,
                           bool interleave16 = false);

// Whether a matrix takes more than 4 bits a weight and stands in whole blocks of 32 columns.
bool can_draft(const model::tensor& wide, const options& chosen) noexcept;
std::uint64_t draft_bytes(const model::tensor& wide) noexcept;  // of pack_draft()

}  // namespace foretoken::cpu
