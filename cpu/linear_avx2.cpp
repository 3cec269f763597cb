// SPDX-License-Identifier: Apache-2.0
// The matrix kernels with AVX2, FMA and F16C: y[m][n] as in linear_avx512.cpp. Blocks of up to four
// planes pass over a tile's records, 8 outputs at a time.
//
// Nibbles: vpmaddubsw multiplies them with bytes of activations and adds pairs; a sum of 16 pairs
// of at most 15 * 128 stays below 2^15, so a group needs one widening only. Bytes: 255 * 128 * 2
// would saturate there, so they are widened and meet 16-bit activations in vpmaddwd: exact costs
// what fast does.

#if defined(__x86_64__)

// GCC 12 sees sign conversions in constant pointer offsets of unrolled templates and uninitialised
// values in its own intrinsics (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wsign-conversion"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "base/assert.hpp"
#include "cpu/linear_kernels.hpp"

#define FORETOKEN_AVX2 __attribute__((target("avx2,fma,f16c")))
#define FORETOKEN_AVX2_INLINE inline __attribute__((always_inline)) FORETOKEN_AVX2

namespace foretoken::cpu {
namespace {

constexpr int panel_rows = 8;
constexpr int panels = tile_rows / panel_rows;
constexpr std::size_t prefetch_bytes = 5120;

FORETOKEN_AVX2_INLINE __m256i load_words(const void* from) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}

template <class Value>
FORETOKEN_AVX2_INLINE Value read(const void* from) {
  Value value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

FORETOKEN_AVX2_INLINE __m256 widen_halves(const std::byte* from) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}

FORETOKEN_AVX2_INLINE __m128i fold(__m256i x, bool largest) {
  const __m128i a = _mm256_castsi256_si128(x);
  const __m128i b = _mm256_extracti128_si256(x, 1);
  return largest ? _mm_max_epu32(a, b) : _mm_add_epi32(a, b);
}

FORETOKEN_AVX2_INLINE std::uint32_t reduce(__m256i x, bool largest) {
  __m128i v = fold(x, largest);
  const __m128i halves = _mm_shuffle_epi32(v, 0x4E);
  v = largest ? _mm_max_epu32(v, halves) : _mm_add_epi32(v, halves);
  const __m128i neighbours = _mm_shuffle_epi32(v, 0xB1);
  v = largest ? _mm_max_epu32(v, neighbours) : _mm_add_epi32(v, neighbours);
  return static_cast<std::uint32_t>(_mm_cvtsi128_si32(v));
}

// 16 columns of a block as words; returns their sum.
FORETOKEN_AVX2_INLINE std::int32_t quantise_half(const float* x, __m256 inverse, std::int16_t* q) {
  const __m256i a = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x), inverse));
  const __m256i b = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8), inverse));
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xD8);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(q), packed);
  return static_cast<std::int32_t>(reduce(_mm256_add_epi32(a, b), false));
}

FORETOKEN_AVX2_INLINE void put_bytes(std::int8_t* to, __m256i first, __m256i second) {
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packs_epi16(first, second), 0xD8);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), packed);
}

// The planes of bytes of a block of words: high first, low in [-128, 127].
FORETOKEN_AVX2_INLINE void part_words(const std::int16_t* words, int planes, std::int8_t* bytes) {
  const __m256i a = load_words(words);
  const __m256i b = load_words(words + 16);
  if (planes == 1) return put_bytes(bytes, a, b);
  const __m256i round = _mm256_set1_epi16(128);
  const __m256i high_a = _mm256_srai_epi16(_mm256_add_epi16(a, round), 8);
  const __m256i high_b = _mm256_srai_epi16(_mm256_add_epi16(b, round), 8);
  put_bytes(bytes, high_a, high_b);
  put_bytes(bytes + block_columns, _mm256_sub_epi16(a, _mm256_slli_epi16(high_a, 8)),
            _mm256_sub_epi16(b, _mm256_slli_epi16(high_b, 8)));
}

// See quantise() in linear_portable.cpp: the same operations, 8 at a time.
FORETOKEN_AVX2 void quantise_block(const activations::storage& to, std::size_t at, const float* x) {
  std::int16_t* const q = to.words + at * block_columns;
  std::int8_t* const bytes = to.bytes + at * block_columns * static_cast<std::size_t>(to.planes);
  __m256i largest = _mm256_setzero_si256();
  for (int i = 0; i < block_columns; i += 8) {
    const __m256i bits = load_words(x + i);
    largest = _mm256_max_epu32(largest, _mm256_and_si256(bits, _mm256_set1_epi32(0x7FFFFFFF)));
  }
  const std::uint32_t bits = reduce(largest, true);
  const block_scale scale = scale_for(bits, to.planes);
  if (!(scale.power > 0)) {
    std::fill_n(q, block_columns, std::int16_t{0});
    std::fill_n(bytes, block_columns * to.planes, std::int8_t{0});
    return to.put_sums(at, scale.value(), 0, 0);
  }
  const __m256 inverse = _mm256_set1_ps(1.0f / scale.value());
  const std::int32_t first = quantise_half(x, inverse, q);
  const std::int32_t second = quantise_half(x + 16, inverse, q + 16);
  part_words(q, to.planes, bytes);
  to.put_sums(at, scale.value(), first, second);
}

FORETOKEN_AVX2 void quantise(const activations::storage& to, const block_walk& walk) {
  for (int i = 0; i < walk.count; ++i) quantise_block(to, walk.block(i), walk.values(i));
}

// ---- integer weights ----

// One group of columns of one record, and the rows that meet it.
struct group_work {
  const std::byte* quants;  // of the group
  const std::byte* scales;  // of the group's 64 rows
  const std::byte* minima;  // or null
  bool wide;
  int offset;
  int group;  // number in the record
  std::size_t block;
  const activations::storage* x;
  int first_row;
  tile_output out;

  std::size_t at(int m) const { return x->block(first_row + m) + block; }
};

FORETOKEN_AVX2_INLINE __m256 load_scales(const std::byte* scales, bool wide, int panel) {
  if (wide) return _mm256_loadu_ps(reinterpret_cast<const float*>(scales) + panel_rows * panel);
  return widen_halves(scales + 2 * panel_rows * panel);
}

// y = fma(sum * x_scale, scale, y), then the minimum: the order every kernel keeps.
template <int Group, int Rows>
FORETOKEN_AVX2_INLINE void add_group(const group_work& work,
                                     int panel,
                                     const __m256i (&sums)[Rows]) {
  const activations::storage& x = *work.x;
  const auto group = static_cast<std::size_t>(work.group);
  const __m256 scale = load_scales(work.scales, work.wide, panel);
  for (int m = 0; m < Rows; ++m) {
    const std::size_t at = work.at(m);
    const std::int32_t* const s = x.int_sums + 2 * at;
    const int x_int_sum = Group == 32 ? s[0] + s[1] : s[group];
    const __m256i sum = _mm256_sub_epi32(sums[m], _mm256_set1_epi32(work.offset * x_int_sum));
    float* const y = work.out.y + static_cast<std::size_t>(work.first_row + m) * work.out.stride +
                     panel_rows * panel;
    const __m256 scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_set1_ps(x.scales[at]));
    __m256 after = _mm256_fmadd_ps(scaled, scale, _mm256_loadu_ps(y));
    if (work.minima != nullptr) {
      const float x_sum = Group == 32 ? x.sums[at] : x.half_sums[2 * at + group];
      const __m256 minimum = load_scales(work.minima, work.wide, panel);
      after = _mm256_fmadd_ps(minimum, _mm256_set1_ps(x_sum), after);
    }
    _mm256_storeu_ps(y, after);
  }
}

template <int Group, int Planes, int Rows>
FORETOKEN_AVX2_INLINE void nibble_panel(const group_work& work, int panel) {
  constexpr int lines = Planes * Rows;
  constexpr auto block_bytes = static_cast<std::size_t>(Planes * block_columns);
  const __m256i mask = _mm256_set1_epi8(15);
  __m256i pairs[lines];
  for (auto& pair : pairs) pair = _mm256_setzero_si256();
#pragma GCC unroll 4
  for (int step = 0; step < Group / 8; ++step) {
    const __m256i both = load_words(work.quants + (step * panels + panel) * 32);
    const __m256i low = _mm256_and_si256(both, mask);
    const __m256i high = _mm256_and_si256(_mm256_srli_epi16(both, 4), mask);
#pragma GCC unroll 4
    for (int v = 0; v < lines; ++v) {
      const std::int8_t* const q = work.x->bytes + work.at(v / Planes) * block_bytes +
                                   v % Planes * block_columns + work.group * Group + 8 * step;
      const __m256i first = _mm256_maddubs_epi16(low, _mm256_set1_epi32(read<int>(q)));
      const __m256i second = _mm256_maddubs_epi16(high, _mm256_set1_epi32(read<int>(q + 4)));
      pairs[v] = _mm256_add_epi16(pairs[v], _mm256_add_epi16(first, second));
    }
  }
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i sums[Rows];
  for (int m = 0; m < Rows; ++m) {
    sums[m] = _mm256_madd_epi16(pairs[m * Planes], ones);
    if constexpr (Planes == 2) {
      sums[m] = _mm256_add_epi32(_mm256_slli_epi32(sums[m], 8),
                                 _mm256_madd_epi16(pairs[m * Planes + 1], ones));
    }
  }
  add_group<Group, Rows>(work, panel, sums);
}

FORETOKEN_AVX2_INLINE __m256i widen_bytes(const std::byte* from) {
  return _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}

template <int Group, int Rows>
FORETOKEN_AVX2_INLINE void byte_panel(const group_work& work, int panel) {
  __m256i front[Rows];  // two sums of each of outputs 0 to 3
  __m256i back[Rows];   // and of 4 to 7
  for (int m = 0; m < Rows; ++m) front[m] = back[m] = _mm256_setzero_si256();
#pragma GCC unroll 8
  for (int step = 0; step < Group / 4; ++step) {
    const std::byte* const quads = work.quants + (step * panels + panel) * 32;
    const __m256i first = widen_bytes(quads);
    const __m256i second = widen_bytes(quads + 16);
#pragma GCC unroll 4
    for (int m = 0; m < Rows; ++m) {
      const std::int16_t* const q =
          work.x->words + work.at(m) * block_columns + work.group * Group + 4 * step;
      const __m256i quad = _mm256_set1_epi64x(read<long long>(q));
      front[m] = _mm256_add_epi32(front[m], _mm256_madd_epi16(first, quad));
      back[m] = _mm256_add_epi32(back[m], _mm256_madd_epi16(second, quad));
    }
  }
  __m256i sums[Rows];
  for (int m = 0; m < Rows; ++m) {
    sums[m] = _mm256_permute4x64_epi64(_mm256_hadd_epi32(front[m], back[m]), 0xD8);
  }
  add_group<Group, Rows>(work, panel, sums);
}

struct stream {
  const std::byte* records;
  int blocks;
  const integer_form* form;
  const activations::storage* x;
  tile_output out;
};

// Group g of record b, for rows [first_row, first_row + Rows).
template <int Bits, int Group, int Planes, int Rows>
FORETOKEN_AVX2_INLINE void stream_group(
    const stream& from, const std::byte* record, int b, int g, int first_row) {
  const integer_form& form = *from.form;
  const std::byte* const scales =
      record + form.quant_bytes() +
      static_cast<std::size_t>(g) * form.scale_bytes() / static_cast<std::size_t>(form.groups());
  const group_work work{record + g * Group * tile_rows * Bits / 8,
                        scales,
                        form.has_minima ? scales + form.scale_bytes() : nullptr,
                        form.wide_scales,
                        form.offset,
                        g,
                        static_cast<std::size_t>(b),
                        from.x,
                        first_row,
                        from.out};
  for (int panel = 0; panel < panels; ++panel) {
    if constexpr (Bits == 4) {
      nibble_panel<Group, Planes, Rows>(work, panel);
    } else {
      byte_panel<Group, Rows>(work, panel);
    }
  }
}

template <int Bits, int Group, int Planes, int Rows>
FORETOKEN_AVX2 void stream_rows(const stream& from, int first_row) {
  const std::size_t bytes = from.form->record_bytes();
  for (int m = first_row; m < first_row + Rows; ++m) {
    std::fill_n(from.out.y + static_cast<std::size_t>(m) * from.out.stride, tile_rows, 0.0f);
  }
  const std::byte* record = from.records;
  for (int b = 0; b < from.blocks; ++b, record += bytes) {
    for (std::size_t i = 0; i < bytes; i += 64) {
      _mm_prefetch(reinterpret_cast<const char*>(record) + prefetch_bytes + i, _MM_HINT_T0);
    }
    for (int g = 0; g < block_columns / Group; ++g) {
      stream_group<Bits, Group, Planes, Rows>(from, record, b, g, first_row);
    }
  }
}

// Rows in blocks of Most, then one by one.
template <int Bits, int Group, int Planes, int Most>
void stream_all(const stream& from, row_range rows) {
  int m = rows.begin;
  for (; m + Most <= rows.end; m += Most) stream_rows<Bits, Group, Planes, Most>(from, m);
  for (; m < rows.end; ++m) stream_rows<Bits, Group, Planes, 1>(from, m);
}

void integer_tile(const integer_stream& tile,
                  const integer_form& form,
                  const activations::storage& x,
                  row_range rows,
                  tile_output out) {
  const stream from{tile.records, tile.blocks, &form, &x, out};
  const bool halves = form.group == 16;
  FORETOKEN_ASSERT(halves || form.group == 32);
  if (form.bits == 8) {
    return halves ? stream_all<8, 16, 1, 4>(from, rows) : stream_all<8, 32, 1, 4>(from, rows);
  }
  if (x.planes == 2) {
    return halves ? stream_all<4, 16, 2, 2>(from, rows) : stream_all<4, 32, 2, 2>(from, rows);
  }
  return halves ? stream_all<4, 16, 1, 4>(from, rows) : stream_all<4, 32, 1, 4>(from, rows);
}

// ---- float weights ----

template <float_form Form>
FORETOKEN_AVX2_INLINE __m256 load_floats(const std::byte* values, std::size_t index) {
  if constexpr (Form == float_form::f32) {
    return _mm256_loadu_ps(reinterpret_cast<const float*>(values) + index);
  }
  const std::byte* const from = values + 2 * index;
  if constexpr (Form == float_form::f16) return widen_halves(from);
  const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}

template <float_form Form>
FORETOKEN_AVX2 void widen_chunk(const std::byte* values, int columns, float* to) {
  for (int i = 0; i < columns * tile_rows; i += 8) {
    _mm256_storeu_ps(to + i, load_floats<Form>(values, static_cast<std::size_t>(i)));
  }
}

struct float_work {
  const float* weights;  // [columns][64]
  int columns;
  int first_column;
  const activations::storage* x;
};

// Rows rows of x, `Vectors` vectors of 8 outputs from `output` on.
template <int Rows, int Vectors>
FORETOKEN_AVX2_INLINE void float_panel(const float_work& work,
                                       int output,
                                       int first_row,
                                       tile_output out) {
  const float* const x = work.x->values + work.x->row(first_row) + work.first_column;
  __m256 sums[Rows][Vectors];
  for (auto& row : sums) {
    for (auto& sum : row) sum = _mm256_setzero_ps();
  }
  for (int k = 0; k < work.columns; ++k) {
    __m256 w[Vectors];
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) {
      w[v] = _mm256_loadu_ps(work.weights + k * tile_rows + output + 8 * v);
    }
#pragma GCC unroll 4
    for (int m = 0; m < Rows; ++m) {
      const __m256 value = _mm256_set1_ps(
          x[static_cast<std::size_t>(m) * work.x->stride + static_cast<std::size_t>(k)]);
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) sums[m][v] = _mm256_fmadd_ps(w[v], value, sums[m][v]);
    }
  }
  for (int m = 0; m < Rows; ++m) {
    float* const y = out.y + static_cast<std::size_t>(first_row + m) * out.stride + output;
    for (int v = 0; v < Vectors; ++v) {
      const __m256 before =
          work.first_column == 0 ? _mm256_setzero_ps() : _mm256_loadu_ps(y + 8 * v);
      _mm256_storeu_ps(y + 8 * v, _mm256_add_ps(before, sums[m][v]));
    }
  }
}

FORETOKEN_AVX2 void float_rows(const float_work& work, row_range rows, tile_output out) {
  int m = rows.begin;
  for (; m + 4 <= rows.end; m += 4) {
    for (int output = 0; output < tile_rows; output += 16) float_panel<4, 2>(work, output, m, out);
  }
  for (; m < rows.end; ++m) {
    for (int output = 0; output < tile_rows; output += 32) float_panel<1, 4>(work, output, m, out);
  }
}

template <float_form Form>
void float_columns(const std::byte* values,
                   int columns,
                   const activations::storage& x,
                   row_range rows,
                   tile_output out) {
  constexpr std::size_t size = Form == float_form::f32 ? 4 : 2;
  alignas(64) float widened[float_chunk_columns * tile_rows];
  for (int first = 0; first < columns; first += float_chunk_columns) {
    const int count = std::min(float_chunk_columns, columns - first);
    const std::byte* const chunk = values + size * static_cast<std::size_t>(first * tile_rows);
    const float* weights = reinterpret_cast<const float*>(chunk);
    if constexpr (Form != float_form::f32) {
      widen_chunk<Form>(chunk, count, widened);
      weights = widened;
    }
    float_rows({weights, count, first, &x}, rows, out);
  }
}

void float_tile(const std::byte* values,
                int columns,
                float_form form,
                const activations::storage& x,
                row_range rows,
                tile_output out) {
  switch (form) {
    case float_form::f32: return float_columns<float_form::f32>(values, columns, x, rows, out);
    case float_form::f16: return float_columns<float_form::f16>(values, columns, x, rows, out);
    case float_form::bf16: return float_columns<float_form::bf16>(values, columns, x, rows, out);
  }
}

}  // namespace

const linear_kernels avx2_kernels{true, true, false, quantise, integer_tile, float_tile};

}  // namespace foretoken::cpu

#endif
