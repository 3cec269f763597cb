// SPDX-License-Identifier: Apache-2.0
#pragma once
// What the vector kernels share that stream a tile of integer weights past rows of activations.
// Included by cpu/linear_avx*.cpp only.

#include "base/inline.hpp"
#include "cpu/linear_kernels.hpp"

namespace foretoken::cpu {

// Where the stream goes on: asked for a line at a time, between the multiplications. It is read
// once a step, and more of it than the third-level cache holds: not to be kept there in the place
// of keys and values (decode of 2 and 4 streams in fast: 2 to 4 % more than with a hint for the
// second level; AVX-512 on an EPYC Zen 5, 2026-11-30; AVX2 does the same, not measured).
struct read_ahead {
  const std::byte* at;
  std::size_t stride;
  FORETOKEN_INLINE void next() {
    __builtin_prefetch(at, 0, 0);
    at += stride;
  }
  FORETOKEN_INLINE void next_group() {}
};

// The same once a group of columns, for passes that ask for few lines: asking twice for one takes a
// load's place.
struct group_ahead {
  const std::byte* at;
  std::size_t stride;
  int lines = 0;     // a group
  read_list* later;  // what else to ask for, or null

  // `bytes` over so many groups.
  group_ahead(const std::byte* first, std::size_t bytes, int groups, read_list* rest)
      : at(first), later(rest != nullptr && !rest->done() ? rest : nullptr) {
    constexpr std::size_t line = 64;
    const auto count = static_cast<std::size_t>(groups);
    const std::size_t of_group = (bytes + count - 1) / count;
    const std::size_t most = (of_group + line - 1) / line;
    lines = static_cast<int>(most);
    stride = most == 0 ? 0 : (of_group + most - 1) / most;
  }
  std::size_t bytes_of(int groups) const {
    return stride * static_cast<std::size_t>(lines) * static_cast<std::size_t>(groups);
  }
  FORETOKEN_INLINE void next() {}
  FORETOKEN_INLINE void next_group() {
    for (int i = 0; i < lines; ++i, at += stride) __builtin_prefetch(at, 0, 2);
    const std::byte* const idle = later == nullptr ? nullptr : later->take();
    if (idle == nullptr) return;
    for (std::size_t i = 0; i < read_list::lines_at_once; ++i) {
      __builtin_prefetch(idle + i * read_list::line_bytes, 0, 2);
    }
  }
};

// What a few rows do with a tile.
struct stream_job {
  integer_stream tile;
  int offset;
  const activations::storage& x;
  int first_row;
  tile_output out;
  struct {
    const std::byte* at;
    std::size_t bytes;
  } ahead;  // what to ask for
  int first_block = 0;
};

// make.operator()<Bits, Group, Wide, Minima>() for a form; nothing for one that no type has.
template <class Make>
auto with_form(const integer_form& form, const Make& make) {
  using made = decltype(make.template operator()<4, 32, false, true>());
  const bool minima = form.has_minima;
  if (form.bits == 4 && form.group == 32 && !form.wide_scales) {
    return minima ? make.template operator()<4, 32, false, true>()
                  : make.template operator()<4, 32, false, false>();
  }
  if (form.bits == 4 && form.wide_scales) {
    if (form.group == 32) return minima ? make.template operator()<4, 32, true, true>() : made{};
    return minima ? make.template operator()<4, 16, true, true>()
                  : make.template operator()<4, 16, true, false>();
  }
  if (form.bits == 8 && form.group == 32) {
    if (form.wide_scales) return minima ? make.template operator()<8, 32, true, true>() : made{};
    return minima ? make.template operator()<8, 32, false, true>()
                  : make.template operator()<8, 32, false, false>();
  }
  const bool known = form.bits == 8 && form.group == 16 && form.wide_scales && !minima;
  return known ? make.template operator()<8, 16, true, false>() : made{};
}

}  // namespace foretoken::cpu
