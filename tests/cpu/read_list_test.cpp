// SPDX-License-Identifier: Apache-2.0
#include "cpu/read_list.hpp"

#include <vector>

#include "doctest/doctest.h"

namespace foretoken::cpu {
namespace {

constexpr std::size_t step = read_list::lines_at_once * read_list::line_bytes;

// Where everything taken begins, from `base` on.
std::vector<std::ptrdiff_t> taken_from(read_list& list, const std::byte* base) {
  std::vector<std::ptrdiff_t> places;
  while (const std::byte* lines = list.take()) places.push_back(lines - base);
  return places;
}

TEST_CASE(
    "read_list: all lines of every piece once, the last piece first, as far as there is room") {
  const std::vector<std::byte> memory(40 * step);
  const std::byte* const base = memory.data();
  read_list list(3, 2 * step);
  CHECK(list.take() == nullptr);
  for (const std::size_t piece : {0u, 8u, 4u, 12u}) list.add(base + piece * step);
  CHECK(list.take() == nullptr);  // not begun
  list.begin(0);
  const auto unit = static_cast<std::ptrdiff_t>(step);
  CHECK(taken_from(list, base) ==
        std::vector<std::ptrdiff_t>{4 * unit, 5 * unit, 8 * unit, 9 * unit, 0, unit});
  list.begin(20 * step);
  CHECK(list.take() == base + 24 * step);
  list.clear();
  CHECK(list.take() == nullptr);
}

}  // namespace
}  // namespace foretoken::cpu
