// SPDX-License-Identifier: Apache-2.0
// Integer weights with AVX2: y[m][n] as in linear_avx512.cpp, 8 outputs a vector.
//
// Nibbles: vpmaddubsw multiplies them with bytes of activations and adds pairs of columns. The
// pairs of a whole group add up in 16 bits (16 products of at most 15 * 128 stay below 2^15), so a
// group is widened once. An exact row is two planes of bytes, multiplied as two rows. Bytes of
// weights would saturate there (255 * 128 * 2): two columns of each output, made 16 bits wide by a
// shuffle, meet words of activations in vpmaddwd, so that exact costs what fast does.
//
// What limits it (Zen 4, four vector units, two of them multiply): a product of 64 nibbles and a
// row is two multiplications and two additions, which fill all four for a cycle; a group adds six
// operations a row for scale and minimum to these 16. Eight rows (four exact ones) share the
// unpacking of a vector of weights, 8 outputs at a time; few rows take 64 outputs in one pass, so
// that memory is read in order. Measured (2 threads, linear_bench --isa avx2, q4_1 3072 x 576,
// GMAC/s of weights, 2026-11-24): fast 49 for one row (30 GB/s), 103, 145 and 156 for 2, 3 and 4,
// 187 for 8, 201 for 128; exact 50, 83, 97 and 110 for 1 to 4, 118 for 8, 119 for 128; 8 bits 109
// for 128. With outputs in memory and a pass a group it had been 55, 68, 74, 93, 92, 96 in fast,
// 47 to 64 in exact, and 72.
//
// keep_order() is worth a third of that: left to itself GCC adds the products of a group as a
// tree, keeps them all until then, and spends its time storing them.

#if defined(__x86_64__)

#include <algorithm>

#include "base/assert.hpp"
#include "cpu/linear_avx2.hpp"
#include "cpu/linear_stream.hpp"

namespace foretoken::cpu {
namespace {

using avx2::load_words;
using avx2::panels;
using avx2::widen_halves;

FORETOKEN_AVX2_INLINE __m256i broadcast_quad(const void* from) {
  int quad;
  std::memcpy(&quad, from, sizeof quad);
  return _mm256_set1_epi32(quad);
}

// Adds in this order: summed as a tree, products would leave the registers (GCC reassociates them).
FORETOKEN_AVX2_INLINE void keep_order(__m256i& sum) {
  asm("" : "+x"(sum));
}

template <bool Wide>
FORETOKEN_AVX2_INLINE __m256 load_scales(const std::byte* scales) {
  if constexpr (Wide) return _mm256_loadu_ps(reinterpret_cast<const float*>(scales));
  return widen_halves(scales);
}

// Rows of activations that pass over a tile together. Planes: of bytes; 0: words.
template <int Planes, int Rows>
struct row_block {
  static constexpr std::size_t block_bytes = (Planes == 0 ? 2 : Planes) * block_columns;
  const char* q;         // of the first row and block
  std::size_t q_stride;  // bytes from one row to the next
  std::size_t at;        // block number of the first row
  std::size_t at_stride;

  row_block(const activations::storage& x, int first_row)
      : q_stride(x.blocks * block_bytes), at(x.block(first_row)), at_stride(x.blocks) {
    q = (Planes == 0 ? reinterpret_cast<const char*>(x.words)
                     : reinterpret_cast<const char*>(x.bytes)) +
        at * block_bytes;
  }
  FORETOKEN_AVX2_INLINE void next() {
    q += block_bytes;
    ++at;
  }
  FORETOKEN_AVX2_INLINE std::size_t block(int m) const {
    return at + static_cast<std::size_t>(m) * at_stride;
  }
  // Four bytes of line v from byte `first` of its block on: a row's planes are neighbouring lines.
  FORETOKEN_AVX2_INLINE __m256i quad(int v, int first) const {
    constexpr int lines = Planes == 0 ? 1 : Planes;
    return broadcast_quad(q + static_cast<std::size_t>(v / lines) * q_stride +
                          v % lines * block_columns + first);
  }
};

// A panel's part of one group of columns.
struct panel_group {
  const std::byte* quants;
  const std::byte* scales;
  const std::byte* minima;  // read only of forms that have them
  int group;                // number in the record
};

// The group's sums of products with 4-bit quants.
template <int Group, int Planes, int Rows>
FORETOKEN_AVX2_INLINE void multiply_nibbles(const panel_group& at,
                                            const row_block<Planes, Rows>& rows,
                                            read_ahead& ahead,
                                            __m256i (&sums)[Rows]) {
  constexpr int lines = Planes * Rows;
  const __m256i mask = _mm256_set1_epi8(15);
  __m256i pairs[lines];
#pragma GCC unroll 8
  for (int v = 0; v < lines; ++v) pairs[v] = _mm256_setzero_si256();
#pragma GCC unroll 4
  for (int step = 0; step < Group / 8; ++step) {
    if (step % 2 == 0) ahead.next();
    const int column = at.group * Group + 8 * step;
    const __m256i both = load_words(at.quants + step * panels * 32);
    const __m256i low = _mm256_and_si256(both, mask);
    const __m256i high = _mm256_and_si256(_mm256_srli_epi16(both, 4), mask);
#pragma GCC unroll 8
    for (int v = 0; v < lines; ++v) {
      pairs[v] = _mm256_add_epi16(pairs[v], _mm256_maddubs_epi16(low, rows.quad(v, column)));
      keep_order(pairs[v]);
      pairs[v] = _mm256_add_epi16(pairs[v], _mm256_maddubs_epi16(high, rows.quad(v, column + 4)));
      keep_order(pairs[v]);
    }
  }
  const __m256i ones = _mm256_set1_epi16(1);
#pragma GCC unroll 8
  for (int m = 0; m < Rows; ++m) {
    sums[m] = _mm256_madd_epi16(pairs[m * Planes], ones);
    if constexpr (Planes == 2) {
      sums[m] = _mm256_add_epi32(_mm256_slli_epi32(sums[m], 8),
                                 _mm256_madd_epi16(pairs[m * Planes + 1], ones));
    }
  }
}

// The same of 8-bit quants with 16-bit activations: two columns of each output side by side.
template <int Group, int Rows>
FORETOKEN_AVX2_INLINE void multiply_bytes(const panel_group& at,
                                          const row_block<0, Rows>& rows,
                                          read_ahead& ahead,
                                          __m256i (&sums)[Rows]) {
  constexpr char no = -1;
  const __m256i front = _mm256_setr_epi8(0, no, 1, no, 4, no, 5, no, 8, no, 9, no, 12, no, 13, no,
                                         0, no, 1, no, 4, no, 5, no, 8, no, 9, no, 12, no, 13, no);
  const __m256i back = _mm256_setr_epi8(2, no, 3, no, 6, no, 7, no, 10, no, 11, no, 14, no, 15, no,
                                        2, no, 3, no, 6, no, 7, no, 10, no, 11, no, 14, no, 15, no);
#pragma GCC unroll 8
  for (int m = 0; m < Rows; ++m) sums[m] = _mm256_setzero_si256();
#pragma GCC unroll 8
  for (int step = 0; step < Group / 4; ++step) {
    if (step % 2 == 0) ahead.next();
    const int first = 2 * (at.group * Group + 4 * step);
    const __m256i four = load_words(at.quants + step * panels * 32);
    const __m256i one = _mm256_shuffle_epi8(four, front);
    const __m256i two = _mm256_shuffle_epi8(four, back);
#pragma GCC unroll 8
    for (int m = 0; m < Rows; ++m) {
      sums[m] = _mm256_add_epi32(sums[m], _mm256_madd_epi16(one, rows.quad(m, first)));
      keep_order(sums[m]);
      sums[m] = _mm256_add_epi32(sums[m], _mm256_madd_epi16(two, rows.quad(m, first + 4)));
      keep_order(sums[m]);
    }
  }
}

// Sums of weights less the offset. REQUIRES the sums of the quants themselves.
template <int Group, int Planes, int Rows>
FORETOKEN_AVX2_INLINE void take_offset(const stream_job& job,
                                       const row_block<Planes, Rows>& rows,
                                       int group,
                                       __m256i (&sums)[Rows]) {
#pragma GCC unroll 8
  for (int m = 0; m < Rows; ++m) {
    const std::int32_t* const s = job.x.int_sums + 2 * rows.block(m);
    const int x_sum = Group == 32 ? s[0] + s[1] : s[group];
    sums[m] = _mm256_sub_epi32(sums[m], _mm256_set1_epi32(job.offset * x_sum));
  }
}

// y = fma(sum, scale * x_scale, y), then the minimum: the order every kernel keeps.
template <int Group, bool Wide, bool Minima, int Planes, int Rows>
FORETOKEN_AVX2_INLINE void add_group(const activations::storage& x,
                                     const row_block<Planes, Rows>& rows,
                                     const panel_group& at,
                                     const __m256i (&sums)[Rows],
                                     __m256 (&y)[Rows]) {
  const __m256 scale = load_scales<Wide>(at.scales);
#pragma GCC unroll 8
  for (int m = 0; m < Rows; ++m) {
    const __m256 both = _mm256_mul_ps(scale, _mm256_set1_ps(x.scales[rows.block(m)]));
    y[m] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[m]), both, y[m]);
  }
  if constexpr (!Minima) return;
  const __m256 minimum = load_scales<Wide>(at.minima);
#pragma GCC unroll 8
  for (int m = 0; m < Rows; ++m) {
    const std::size_t block = rows.block(m);
    const float x_sum =
        Group == 32 ? x.sums[block] : x.half_sums[2 * block + static_cast<std::size_t>(at.group)];
    y[m] = _mm256_fmadd_ps(minimum, _mm256_set1_ps(x_sum), y[m]);
  }
}

// One group of columns times a panel.
template <int Bits, int Group, bool Wide, bool Minima, int Planes, int Rows>
FORETOKEN_AVX2_INLINE void multiply_group(const stream_job& job,
                                          const row_block<Planes, Rows>& rows,
                                          const panel_group& at,
                                          read_ahead& ahead,
                                          __m256 (&y)[Rows]) {
  __m256i sums[Rows];
  ahead.next();
  if constexpr (Bits == 4) {
    multiply_nibbles<Group>(at, rows, ahead, sums);
  } else {
    multiply_bytes<Group>(at, rows, ahead, sums);
  }
  if constexpr (!Minima) take_offset<Group>(job, rows, at.group, sums);
  add_group<Group, Wide, Minima>(job.x, rows, at, sums, y);
}

// Rows x Panels outputs over all columns.
template <int Bits, int Group, bool Wide, bool Minima, int Planes, int Rows, int Panels>
FORETOKEN_AVX2_INLINE void stream_panels(const stream_job& job, int first_panel, read_ahead ahead) {
  constexpr integer_form form{Bits, Group, Wide, Minima, 0};
  row_block<Planes, Rows> rows(job.x, job.first_row);
  __m256 y[Panels][Rows];
#pragma GCC unroll 16
  for (int i = 0; i < Rows * Panels; ++i) y[i / Rows][i % Rows] = _mm256_setzero_ps();
  const std::byte* record = job.tile.records;
  for (int b = 0; b < job.tile.blocks; ++b, record += form.record_bytes(), rows.next()) {
    const std::byte* const scales = record + form.quant_bytes();
    for (int g = 0; g < form.groups(); ++g) {
#pragma GCC unroll 8
      for (int p = 0; p < Panels; ++p) {
        const int panel = first_panel + p;
        const std::byte* const scale = scales + (g * panels + panel) * 8 * (Wide ? 4 : 2);
        multiply_group<Bits, Group, Wide, Minima>(
            job, rows,
            {record + g * Group * tile_rows * Bits / 8 + panel * 32, scale,
             scale + form.scale_bytes(), g},
            ahead, y[p]);
      }
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < Rows; ++m) {
    float* const to = job.out.y + static_cast<std::size_t>(job.first_row + m) * job.out.stride;
#pragma GCC unroll 8
    for (int p = 0; p < Panels; ++p) _mm256_storeu_ps(to + 8 * (first_panel + p), y[p][m]);
  }
}

// Panels whose outputs stand in registers together: with few rows many, for the order of reading.
constexpr int panels_at_once(int bits, int lines) {
  const int most = bits == 4 ? panels : panels / 2;
  return lines == 3 ? most / 4 : std::max(most / lines, 1);
}

// Rows of a tile; the lines asked for are spread over all multiplications.
template <int Bits, int Group, bool Wide, bool Minima, int Planes, int Rows>
FORETOKEN_AVX2 void stream_rows(const stream_job& job) {
  constexpr integer_form form{Bits, Group, Wide, Minima, 0};
  constexpr int at_once = panels_at_once(Bits, Bits == 4 ? Planes * Rows : Rows);
  constexpr int units = panels * (Bits / 2 + form.groups());  // of next() a record
  const std::size_t stride = job.ahead.bytes / static_cast<std::size_t>(units * job.tile.blocks);
  const std::size_t share = job.ahead.bytes * at_once / panels;
  read_ahead ahead{job.ahead.at, stride};
  for (int p = 0; p < panels; p += at_once, ahead.at += share) {
    stream_panels<Bits, Group, Wide, Minima, Planes, Rows, at_once>(job, p, ahead);
  }
}

// ---- the kernel for a form and a number of rows ----

using stream_function = void (*)(const stream_job&);

constexpr int rows_max = 8;  // of one pass

// Rows of the next pass when `left` are to come.
int rows_of_pass(int bits, int planes, int left) {
  if (bits == 4 && planes == 1 && left >= rows_max) return rows_max;
  return std::min(left, 4);
}

template <int Bits, int Group, bool Wide, bool Minima, int Planes>
stream_function stream_of_rows(int rows) {
  switch (rows) {
    case 1: return stream_rows<Bits, Group, Wide, Minima, Planes, 1>;
    case 2: return stream_rows<Bits, Group, Wide, Minima, Planes, 2>;
    case 3: return stream_rows<Bits, Group, Wide, Minima, Planes, 3>;
    case 4: return stream_rows<Bits, Group, Wide, Minima, Planes, 4>;
  }
  if constexpr (Planes == 1) return stream_rows<Bits, Group, Wide, Minima, Planes, rows_max>;
  return nullptr;
}

template <int Bits, int Group, bool Wide, bool Minima>
stream_function stream_of(int planes, int rows) {
  if constexpr (Bits == 8) {
    return stream_of_rows<Bits, Group, Wide, Minima, 0>(rows);
  } else {
    return planes == 2 ? stream_of_rows<Bits, Group, Wide, Minima, 2>(rows)
                       : stream_of_rows<Bits, Group, Wide, Minima, 1>(rows);
  }
}

// Null for a form that no type has.
stream_function find_stream(const integer_form& form, int planes, int rows) {
  return with_form(form, [&]<int Bits, int Group, bool Wide, bool Minima>() {
    return stream_of<Bits, Group, Wide, Minima>(planes, rows);
  });
}

}  // namespace

void avx2::integer_tile(const integer_stream& tile,
                        const integer_form& form,
                        const activations::storage& x,
                        row_range rows,
                        tile_output out) {
  FORETOKEN_ASSERT(!form.has_minima || form.offset == 0);
  const int rows_here = rows.end - rows.begin;
  const std::size_t bytes = form.record_bytes() * static_cast<std::size_t>(tile.blocks);
  const std::byte* ahead = tile.after.next ? tile.after.next : tile.records;
  for (int m = rows.begin; m < rows.end;) {
    const int count = rows_of_pass(form.bits, x.planes, rows.end - m);
    const stream_function stream = find_stream(form, x.planes, count);
    FORETOKEN_ASSERT(stream != nullptr);
    const std::size_t share = tile.after.next == nullptr ? 0
                                                         : bytes * static_cast<std::size_t>(count) /
                                                               static_cast<std::size_t>(rows_here);
    stream({tile, form.offset, x, m, out, {ahead, share}});
    ahead += share;
    m += count;
  }
}

}  // namespace foretoken::cpu

#endif
