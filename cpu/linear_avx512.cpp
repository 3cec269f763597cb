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
// What limits it (Zen 4): vpdpbusd, multiplications and multiply-adds share one issue a cycle (two
// on Zen 5, where 64 vpdpbusd of a block of fast with a table take 43 to 44 cycles);
// loads, logic, shifts and float additions are free beside them. So a sum is turned into a float,
// and scaled by the power of two in its row's scale, without any: it begins with the bits of a
// float (quantise_avx512.cpp), which are subtracted at the end. In exact that is the whole scale.
// In fast a factor of four is left: with many rows, a table holds a tile's scales times each
// factor; the first block of rows makes it on its way, the stores hidden behind its
// multiplications. Per group, a block of four planes and 16 outputs costs 32 vpdpbusd, 4
// multiply-adds of the scale, 4 of the minimum (2 each in exact), and in fast without a table 4
// multiplications. So at most 80 % of vpdpbusd's rate can be reached in fast with a table, 73
// without, and 89 in exact with minima; 89 and 94 without minima. Measured (linear_bench, 2
// threads, vpdpbusd's rate 472 GMAC/s): in fast, q4_1, 3072 x 576, 351 GMAC/s at 32 rows and 361 at
// 128; q8_0, 49152 x 576, 357 and 378; in exact 400 and 405. A pass whose tile and table are in the
// first-level cache is not faster than one that streams them from the second.
//
// From memory the stream hides behind the multiplications as long as the thread asks in time for
// the tile that it takes next, evenly between its multiplications: 20 % more at 32 rows, 70 % more
// at 8, twice as much at 4. And each line once: asking eight times, as when every multiplication of
// many blocks asks, takes loads' places. One row of fast does not ask: the processor foresees its
// stream, and answers up to 8 % sooner (foretoken bench, median of 7 rounds).
//
// Tried and dropped: blocks of 64 outputs with the outputs in memory (60 %); asking for the next
// tile in one go, or for all levels of cache (the tile in use falls out of the first); vscalefps
// (two issues of the adders); factors as a second power of two that is added (its additions cost
// more than the multiplication); columns in turns of 9 to 24 groups, so that tile and table stay in
// the first-level cache (the same at 1,536 columns, 4 % less at 576). A whole copy of the weights
// as bytes was not built: parting costs nothing here, and bytes double the stream.

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
constexpr int many_panels = 2;
constexpr int table_entry = (factor_count + 1) * 16;  // floats
constexpr int table_groups = 96;                      // 60 KiB

// From so many rows on blocks run one after the other over two panels: a table of 16 columns'
// scales costs twice as much.
constexpr int many_rows(const integer_form& form) {
  return 12 * block_columns / form.group;
}

struct table_scales {
  const float* entry;
  FORETOKEN_AVX512_INLINE __m512 times(int factor) const {
    return _mm512_load_ps(entry + 16 * factor);
  }
  FORETOKEN_AVX512_INLINE __m512 minimum() const {
    return _mm512_load_ps(entry + 16 * factor_count);
  }
};

FORETOKEN_AVX512_INLINE void fill_entry(const record_scales<1>& from, bool minima, float* entry) {
  _mm512_store_ps(entry, from.scale);
#pragma GCC unroll 4
  for (int f = 1; f < factor_count; ++f) _mm512_store_ps(entry + 16 * f, from.times(f));
  if (minima) _mm512_store_ps(entry + 16 * factor_count, from.smallest);
}

// Where a pass takes scales from: `fill` is a record's, and leaves a table behind.
enum class scale_source { record, fill, table };

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
    const block_terms& terms = rows.terms(m);
    const int factor = Planes == 1 ? terms.second : 0;
    __m512& y = block.y[m][panel];
    y = _mm512_fmadd_ps(powered_sum(block, terms, m, panel), scales.times(factor), y);
    if constexpr (Minima) {
      const float x_sum = Group == 32
                              ? terms.sum
                              : x.half_sums[2 * rows.block(m) + static_cast<std::size_t>(group)];
      y = _mm512_fmadd_ps(scales.minimum(), _mm512_set1_ps(x_sum), y);
    }
  }
}

template <bool Wide, bool Minima, int Planes>
FORETOKEN_AVX512_INLINE record_scales<Planes> scales_of(const std::byte* scales,
                                                        std::size_t minima,
                                                        int vector) {
  record_scales<Planes> out{load_scales<Wide>(scales, vector), {}};
  if constexpr (Minima) out.smallest = load_scales<Wide>(scales + minima, vector);
  return out;
}

// The sums of an earlier pass over other columns, or zeros.
template <int Planes, int Rows, int Panels>
FORETOKEN_AVX512_INLINE void begin_outputs(const float* from,
                                           std::size_t stride,
                                           block_sums<Planes, Rows, Panels>& block) {
#pragma GCC unroll 4
  for (int m = 0; m < Rows; ++m) {
#pragma GCC unroll 4
    for (int p = 0; p < Panels; ++p) {
      const float* const at = from + static_cast<std::size_t>(m) * stride + 16 * p;
      block.y[m][p] = stride != 0 ? _mm512_loadu_ps(at) : _mm512_setzero_ps();
    }
  }
}

template <int Planes, int Rows, int Panels>
FORETOKEN_AVX512_INLINE void end_outputs(const block_sums<Planes, Rows, Panels>& block,
                                         float* to,
                                         std::size_t stride) {
#pragma GCC unroll 4
  for (int m = 0; m < Rows; ++m) {
#pragma GCC unroll 4
    for (int p = 0; p < Panels; ++p) {
      _mm512_storeu_ps(to + static_cast<std::size_t>(m) * stride + 16 * p, block.y[m][p]);
    }
  }
}

// Rows x Panels outputs over the job's columns. `table`: of these columns and panels.
template <int Bits,
          int Group,
          bool Wide,
          bool Minima,
          int Planes,
          int Rows,
          int Panels,
          scale_source From,
          class Ahead>
FORETOKEN_AVX512_INLINE void stream_panels(const stream_job& job,
                                           int first_panel,
                                           float* table,
                                           Ahead ahead) {
  constexpr integer_form form{Bits, Group, Wide, Minima, 0};
  constexpr bool tabled = From != scale_source::record;
  const group_starts starts = start_of(job.offset);
  row_block<Planes, Rows> rows(job.x, job.first_row, job.first_block);
  block_sums<Planes, Rows, Panels> block;
  float* const out =
      job.out.y + static_cast<std::size_t>(job.first_row) * job.out.stride + 16 * first_panel;
  begin_outputs(out, tabled && job.first_block > 0 ? job.out.stride : 0, block);
  const std::byte* record = job.tile.records;
  for (int b = 0; b < job.tile.blocks; ++b, record += form.record_bytes(), rows.next()) {
    const std::byte* const scales = record + form.quant_bytes();
    for (int g = 0; g < form.groups(); ++g) {
      const std::byte* const quants = record + g * Group * tile_rows * Bits / 8 + first_panel * 64;
      begin_sums<!Minima>(job.x, rows, starts.first + g * starts.step, block);
      ahead.next_group();
      if constexpr (Bits == 4) {
        multiply_nibbles<Group>(quants, rows, g * Group, ahead, block);
      } else {
        multiply_bytes<Group>(quants, rows, g * Group, ahead, block);
      }
#pragma GCC unroll 4
      for (int p = 0; p < Panels; ++p) {
        ahead.next();
        const int vector = g * panels + first_panel + p;
        if constexpr (From == scale_source::fill) {
          fill_entry(scales_of<Wide, Minima, 1>(scales, form.scale_bytes(), vector), Minima, table);
        }
        if constexpr (tabled) {
          add_group<Group, Minima>(job.x, rows, g, p, table_scales{table}, block);
          table += table_entry;
        } else {
          const auto own = scales_of<Wide, Minima, Planes>(scales, form.scale_bytes(), vector);
          add_group<Group, Minima>(job.x, rows, g, p, own, block);
        }
      }
    }
  }
  end_outputs(block, out, job.out.stride);
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
    stream_panels<Bits, Group, Wide, Minima, Planes, Rows, at_once, scale_source::record>(
        job, p, nullptr, ahead);
  }
}

// Many blocks of four planes, from job.first_row on; job.ahead is for all of them. In fast, the
// first block leaves a table of scales to the others; columns are taken in turns that it can hold.
template <int Bits, int Group, bool Wide, bool Minima, int Planes>
FORETOKEN_AVX512 void stream_many(stream_job job, int blocks) {
  constexpr integer_form form{Bits, Group, Wide, Minima, 0};
  constexpr bool tabled = Planes == 1;
  constexpr int rows = 4 / Planes;
  alignas(64) float table[tabled ? table_groups * many_panels * table_entry : 1];
  const int turn = tabled ? table_groups / form.groups() : job.tile.blocks;
  const int all_blocks = job.tile.blocks;
  const int first_row = job.first_row;
  group_ahead ahead(job.ahead.at, job.ahead.bytes,
                    blocks * all_blocks * form.groups() * (panels / many_panels),
                    job.tile.after.later);
  while (job.first_block < all_blocks) {
    job.tile.blocks = std::min(turn, all_blocks - job.first_block);
    const std::size_t share = ahead.bytes_of(job.tile.blocks * form.groups());
    for (int p = 0; p < panels; p += many_panels) {
      job.first_row = first_row;
      for (int i = 0; i < blocks; ++i, job.first_row += rows, ahead.at += share) {
        if constexpr (!tabled) {
          stream_panels<Bits, Group, Wide, Minima, Planes, rows, many_panels, scale_source::record>(
              job, p, nullptr, ahead);
        } else if (i == 0) {
          stream_panels<Bits, Group, Wide, Minima, 1, 4, many_panels, scale_source::fill>(
              job, p, table, ahead);
        } else {
          stream_panels<Bits, Group, Wide, Minima, 1, 4, many_panels, scale_source::table>(
              job, p, table, ahead);
        }
      }
    }
    job.first_block += job.tile.blocks;
    job.tile.records += form.record_bytes() * static_cast<std::size_t>(job.tile.blocks);
  }
}

// ---- the kernel for a form and a number of rows ----

using stream_function = void (*)(const stream_job&);

// By the rows of a block, less one; and for many blocks of four planes.
struct form_kernels {
  stream_function exact[2] = {};
  stream_function fast[4] = {};
  void (*many_exact)(stream_job, int) = nullptr;
  void (*many_fast)(stream_job, int) = nullptr;
};

template <int Bits, int Group, bool Wide, bool Minima>
constexpr form_kernels kernels_with = {
    {stream_rows<Bits, Group, Wide, Minima, 2, 1>, stream_rows<Bits, Group, Wide, Minima, 2, 2>},
    {stream_rows<Bits, Group, Wide, Minima, 1, 1>, stream_rows<Bits, Group, Wide, Minima, 1, 2>,
     stream_rows<Bits, Group, Wide, Minima, 1, 3>, stream_rows<Bits, Group, Wide, Minima, 1, 4>},
    stream_many<Bits, Group, Wide, Minima, 2>,
    stream_many<Bits, Group, Wide, Minima, 1>};

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
  FORETOKEN_ASSERT(form.has_minima == (form.offset == 0));
  FORETOKEN_ASSERT(x.half_sums != nullptr || !form.reads_groups());
  const form_kernels* const kernels = find_kernels(form);
  FORETOKEN_ASSERT(kernels != nullptr);
  const int most = 4 / x.planes;
  const int count = rows.end - rows.begin;
  const int passes = (count + most - 1) / most;
  const std::size_t bytes = form.record_bytes() * static_cast<std::size_t>(tile.blocks);
  const bool asks = tile.after.next != nullptr && count * x.planes > 1;
  const std::size_t share = asks ? bytes / static_cast<std::size_t>(passes) : 0;
  stream_job job{tile,       form.offset, x,
                 rows.begin, out,         {asks ? tile.after.next : tile.records, share}};
  if (count >= many_rows(form)) {
    const int blocks = count / most;
    job.ahead.bytes = share * static_cast<std::size_t>(blocks);
    (x.planes == 2 ? kernels->many_exact : kernels->many_fast)(job, blocks);
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
    true, false, false, avx512::quantise, integer_tile, avx512::float_tile};

}  // namespace foretoken::cpu

#endif
