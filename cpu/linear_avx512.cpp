// SPDX-License-Identifier: Apache-2.0
// Integer weights with AVX-512 VNNI: y[m][n] = sum over groups g of 32 (or 16) columns of
//   scale[n][g] * x_scale[m][g] * (sum of w[n][k] * q[m][k]) + minimum[n][g] * x_sum[m][g].
//
// vpdpbusd adds four products of unsigned weights and signed activations to each of 16 outputs. An
// exact row is two planes of bytes, which are multiplied as two rows and joined as 256 * high +
// low.
//
// A block is up to four planes (four fast rows, two exact ones) of 32 outputs; with one or two
// planes, of 64. Its sums and outputs stay in registers over all columns: a store of 64 bytes costs
// as much as a vpdpbusd. Nibbles are parted in registers.
//
// What limits it (Zen 4): vpdpbusd, multiplications and multiply-adds share one issue a cycle;
// loads, logic, shifts and float additions are free beside them. So a sum is turned into a float,
// and scaled by the power of two in its row's scale, without any: it begins with the bits of a
// float (quantise_avx512.cpp), which are subtracted at the end. In exact that is the whole scale.
// In fast a factor of four is left: from table_rows rows on, a table holds a tile's scales times
// each factor (it pays from 12 rows on; a 36 KiB tile of bytes and its table would not fit the
// first-level cache). Per group, a block of four planes and 16 outputs costs 32 vpdpbusd, 4
// multiply-adds of the scale, 4 of the minimum (2 each in exact), and in fast without a table 4
// multiplications. So at most 80 % of vpdpbusd's rate can be reached in fast with a table, 73
// without, and 89 in exact with minima; 89 and 94 without minima. Measured (2 threads, q4_1, 3072 x
// 576, 32 rows and more): 76 to 78 % and 87 to 89. From memory the stream hides behind the
// multiplications as long as the thread asks in time for the tile that it takes next, evenly
// between its multiplications: 20 % more at 32 rows, 70 % more at 8, twice as much at 4.
//
// Tried and dropped: blocks of 64 outputs with the outputs in memory (60 %); asking for the next
// tile in one go, or into the first-level cache (the tile in use falls out); vscalefps (two issues
// of the adders); factors as a second power of two that is added (its additions cost more than the
// multiplication). A whole copy of the weights as bytes was not built: parting costs nothing here,
// and bytes double the stream.

#if defined(__x86_64__)

#include <algorithm>

#include "base/assert.hpp"
#include "cpu/linear_avx512_block.hpp"

namespace foretoken::cpu {
namespace {

using namespace avx512;

template <bool Wide>
FORETOKEN_AVX512_INLINE __m512 load_scales(const std::byte* scales, int vector) {
  if constexpr (Wide) return _mm512_loadu_ps(scales + 64 * vector);
  return widen_halves(scales + 32 * vector);
}

// ---- scales of a group: from its record, or from a table ----

// Those of a record, multiplied by a row's factor when they are used.
template <int Planes>
struct record_scales {
  __m512 scale;
  __m512 smallest;
  FORETOKEN_AVX512_INLINE __m512 times(int factor) const {
    if constexpr (Planes == 2) return scale;  // powers of two only
    return _mm512_mul_ps(scale, _mm512_set1_ps(scale_factors[factor]));
  }
  FORETOKEN_AVX512_INLINE __m512 minimum() const { return smallest; }
};

// With many rows of `fast`, all products of a scale and a factor pay off: [group][panel][4 factors,
// minimum][16 outputs], for two panels at a time.
constexpr int factor_count = static_cast<int>(std::size(scale_factors));
constexpr int table_panels = 2;
constexpr int table_entry = (factor_count + 1) * 16;  // floats
constexpr int table_groups = 96;                      // 60 KiB
constexpr int table_rows = 12;                        // from so many rows on

struct table_scales {
  const float* entry;
  FORETOKEN_AVX512_INLINE __m512 times(int factor) const {
    return _mm512_load_ps(entry + 16 * factor);
  }
  FORETOKEN_AVX512_INLINE __m512 minimum() const {
    return _mm512_load_ps(entry + 16 * factor_count);
  }
};

template <int Bits, int Group, bool Wide, bool Minima>
FORETOKEN_AVX512 void fill_table(const integer_stream& tile, int first_panel, float* table) {
  constexpr integer_form form{Bits, Group, Wide, Minima, 0};
  const std::byte* scales = tile.records + form.quant_bytes();
  for (int b = 0; b < tile.blocks; ++b, scales += form.record_bytes()) {
    for (int i = 0; i < form.groups() * table_panels; ++i, table += table_entry) {
      const int vector = i / table_panels * panels + first_panel + i % table_panels;
      const record_scales<1> from{load_scales<Wide>(scales, vector), {}};
      for (int f = 0; f < factor_count; ++f) _mm512_store_ps(table + 16 * f, from.times(f));
      if constexpr (!Minima) continue;
      _mm512_store_ps(table + 16 * factor_count,
                      load_scales<Wide>(scales + form.scale_bytes(), vector));
    }
  }
}

// y = fma(sum, scale * x_scale, y), the power of two moved to the sum; then the minimum: the order
// every kernel keeps.
template <int Group, bool Minima, class Scales, int Planes, int Rows, int Panels>
FORETOKEN_AVX512_INLINE void add_group(const activations::storage& x,
                                       const row_block<Planes, Rows>& rows,
                                       int group,
                                       int panel,
                                       const Scales& scales,
                                       block_sums<Planes, Rows, Panels>& block) {
#pragma GCC unroll 4
  for (int m = 0; m < Rows; ++m) {
    const std::size_t at = rows.block(m);
    __m512& y = block.y[m][panel];
    y = _mm512_fmadd_ps(powered_sum(block, x, at, m, panel), scales.times(x.factors[at]), y);
    if constexpr (Minima) {
      const float x_sum =
          Group == 32 ? x.sums[at] : x.half_sums[2 * at + static_cast<std::size_t>(group)];
      y = _mm512_fmadd_ps(scales.minimum(), _mm512_set1_ps(x_sum), y);
    }
  }
}

// Rows x Panels outputs over all columns. `table`: as fill_table() made it for these panels, or
// null.
template <int Bits, int Group, bool Wide, bool Minima, int Planes, int Rows, int Panels, bool Table>
FORETOKEN_AVX512_INLINE void stream_panels(const stream_job& job,
                                           int first_panel,
                                           const float* table,
                                           read_ahead ahead) {
  constexpr integer_form form{Bits, Group, Wide, Minima, 0};
  const group_starts starts = start_of(job.offset);
  row_block<Planes, Rows> rows(job.x, job.first_row);
  block_sums<Planes, Rows, Panels> block;
#pragma GCC unroll 16
  for (int i = 0; i < Rows * Panels; ++i) block.y[i / Panels][i % Panels] = _mm512_setzero_ps();
  const std::byte* record = job.tile.records;
  for (int b = 0; b < job.tile.blocks; ++b, record += form.record_bytes(), rows.next()) {
    const std::byte* const scales = record + form.quant_bytes();
    for (int g = 0; g < form.groups(); ++g) {
      const std::byte* const quants = record + g * Group * tile_rows * Bits / 8 + first_panel * 64;
      begin_sums<!Minima>(job.x, rows, starts.first + g * starts.step, block);
      if constexpr (Bits == 4) {
        multiply_nibbles<Group>(quants, rows, g * Group, ahead, block);
      } else {
        multiply_bytes<Group>(quants, rows, g * Group, ahead, block);
      }
#pragma GCC unroll 4
      for (int p = 0; p < Panels; ++p) {
        ahead.next();
        if constexpr (Table) {
          add_group<Group, Minima>(job.x, rows, g, p, table_scales{table}, block);
          table += table_entry;
          continue;
        }
        record_scales<Planes> group{};
        group.scale = load_scales<Wide>(scales, g * panels + first_panel + p);
        if constexpr (Minima) {
          group.smallest =
              load_scales<Wide>(scales + form.scale_bytes(), g * panels + first_panel + p);
        }
        add_group<Group, Minima>(job.x, rows, g, p, group, block);
      }
    }
  }
#pragma GCC unroll 4
  for (int m = 0; m < Rows; ++m) {
    float* const to = job.out.y + static_cast<std::size_t>(job.first_row + m) * job.out.stride;
#pragma GCC unroll 4
    for (int p = 0; p < Panels; ++p) _mm512_storeu_ps(to + 16 * (first_panel + p), block.y[m][p]);
  }
}

// How often stream_panels() calls next() for a record and all panels.
template <int Bits, int Group>
constexpr int ahead_units = panels*(block_columns* Bits / 32 + block_columns / Group);

// Rows of a tile; the lines asked for are spread over all multiplications.
template <int Bits, int Group, bool Wide, bool Minima, int Planes, int Rows>
FORETOKEN_AVX512 void stream_rows(const stream_job& job) {
  constexpr int at_once = Planes * Rows > 2 ? 2 : panels;
  const std::size_t stride =
      job.ahead.bytes / static_cast<std::size_t>(ahead_units<Bits, Group> * job.tile.blocks);
  const std::size_t share = job.ahead.bytes * at_once / panels;
  read_ahead ahead{job.ahead.at, stride};
  for (int p = 0; p < panels; p += at_once, ahead.at += share) {
    stream_panels<Bits, Group, Wide, Minima, Planes, Rows, at_once, false>(job, p, nullptr, ahead);
  }
}

// Blocks of four rows of `fast`, from job.first_row on, with tables; job.ahead is for all of them.
template <int Bits, int Group, bool Wide, bool Minima>
FORETOKEN_AVX512 void stream_many(stream_job job, int blocks) {
  alignas(64) float table[table_groups * table_panels * table_entry];
  const std::size_t share =
      job.ahead.bytes * table_panels / static_cast<std::size_t>(panels * blocks);
  const int units = ahead_units<Bits, Group> * table_panels / panels * job.tile.blocks;
  read_ahead ahead{job.ahead.at, share / static_cast<std::size_t>(units)};
  const int first_row = job.first_row;
  for (int p = 0; p < panels; p += table_panels) {
    fill_table<Bits, Group, Wide, Minima>(job.tile, p, table);
    job.first_row = first_row;
    for (int i = 0; i < blocks; ++i, job.first_row += 4, ahead.at += share) {
      stream_panels<Bits, Group, Wide, Minima, 1, 4, table_panels, true>(job, p, table, ahead);
    }
  }
}

// ---- the kernel for a form and a number of rows ----

using stream_function = void (*)(const stream_job&);

// By the rows of a block, less one; and for many blocks of four rows.
struct form_kernels {
  stream_function exact[2] = {};
  stream_function fast[4] = {};
  void (*many)(stream_job, int) = nullptr;
};

template <int Bits, int Group, bool Wide, bool Minima>
constexpr form_kernels kernels_with = {
    {stream_rows<Bits, Group, Wide, Minima, 2, 1>, stream_rows<Bits, Group, Wide, Minima, 2, 2>},
    {stream_rows<Bits, Group, Wide, Minima, 1, 1>, stream_rows<Bits, Group, Wide, Minima, 1, 2>,
     stream_rows<Bits, Group, Wide, Minima, 1, 3>, stream_rows<Bits, Group, Wide, Minima, 1, 4>},
    stream_many<Bits, Group, Wide, Minima>};

// Null for a form that no type has.
const form_kernels* find_kernels(const integer_form& form) {
  return with_form(form, []<int Bits, int Group, bool Wide, bool Minima>() {
    return &kernels_with<Bits, Group, Wide, Minima>;
  });
}

void integer_tile(const integer_stream& tile,
                  const integer_form& form,
                  const activations::storage& x,
                  row_range rows,
                  tile_output out) {
  static_assert(table_rows >= 4);
  FORETOKEN_ASSERT(form.has_minima == (form.offset == 0));
  const form_kernels* const kernels = find_kernels(form);
  FORETOKEN_ASSERT(kernels != nullptr);
  const int most = 4 / x.planes;
  const int count = rows.end - rows.begin;
  const int passes = (count + most - 1) / most;
  const std::size_t bytes = form.record_bytes() * static_cast<std::size_t>(tile.blocks);
  const std::size_t share = tile.next == nullptr ? 0 : bytes / static_cast<std::size_t>(passes);
  stream_job job{tile,       form.offset, x,
                 rows.begin, out,         {tile.next ? tile.next : tile.records, share}};
  if (x.planes == 1 && form.bits == 4 && count >= table_rows &&
      tile.blocks * form.groups() <= table_groups) {
    const int blocks = count / most;
    job.ahead.bytes = share * static_cast<std::size_t>(blocks);
    kernels->many(job, blocks);
    job.first_row += blocks * most;
    job.ahead = {job.ahead.at + job.ahead.bytes, share};
  }
  const stream_function* const by_rows = x.planes == 2 ? kernels->exact : kernels->fast;
  while (job.first_row < rows.end) {
    const int taken = std::min(most, rows.end - job.first_row);
    by_rows[taken - 1](job);
    job.first_row += taken;
    job.ahead.at += share;
  }
}

}  // namespace

const linear_kernels avx512_kernels{
    true, false, true, avx512::quantise, integer_tile, avx512::float_tile};

}  // namespace foretoken::cpu

#endif
