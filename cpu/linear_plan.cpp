// SPDX-License-Identifier: Apache-2.0
#include "cpu/linear_plan.hpp"

#include <algorithm>
#include <string>

#include "cpu/float_weights.hpp"

namespace foretoken::cpu {
namespace {

constexpr std::int64_t rows_max = 1 << 28;
constexpr std::int64_t columns_max = 1 << 24;

int float_bytes(float_form form) {
  return form == float_form::f32 ? 4 : 2;
}

float_form float_form_of(model::dtype type) {
  if (type == model::dtype::f16) return float_form::f16;
  return type == model::dtype::bf16 ? float_form::bf16 : float_form::f32;
}

std::int64_t tiles_of(std::int64_t rows) {
  return (rows + tile_rows - 1) / tile_rows;
}

status check_part(const model::tensor& part, std::int64_t columns) {
  if (part.rows < 1 || part.rows > rows_max || part.columns < 1 || part.columns > columns_max) {
    return invalid(part.name, "a matrix of " + std::to_string(part.rows) + " x " +
                                  std::to_string(part.columns) + " cannot be packed");
  }
  if (part.columns != columns) {
    return invalid(part.name, "has " + std::to_string(part.columns) + " columns where " +
                                  std::to_string(columns) + " are needed");
  }
  const quantised_type& type = quantised(part.type);
  if (type.values != 0 && (part.columns % type.values != 0 || part.transposed)) {
    return invalid(part.name, "its columns are not whole blocks of " + std::to_string(type.values));
  }
  const auto values = static_cast<std::uint64_t>(part.rows) * static_cast<std::uint64_t>(columns);
  const std::uint64_t bytes =
      type.values != 0 ? values / static_cast<std::uint64_t>(type.values) * type.bytes
                       : values * static_cast<std::uint64_t>(float_bytes(float_form_of(part.type)));
  if (part.bytes.size() < bytes) {
    return corrupt(part.name, "has " + std::to_string(part.bytes.size()) + " bytes where " +
                                  std::to_string(bytes) + " are needed");
  }
  return {};
}

linear_section section_of(const model::tensor& part, const options& chosen) {
  linear_section section;
  const quantised_type& type = quantised(part.type);
  const auto columns = static_cast<std::uint64_t>(part.columns);
  section.integer = type.values != 0 && chosen.precision != numerics::float32;
  if (section.integer) {
    section.integers = type.form;
    section.tile_bytes = columns / block_columns * type.form.record_bytes();
  } else if (packs_w8(part, chosen)) {
    section.integer = true;
    section.integers = w8_form();
    section.tile_bytes = columns / block_columns * w8_form().record_bytes();
  } else {
    section.floats = float_form_of(part.type);
    section.tile_bytes =
        columns * tile_rows * static_cast<std::uint64_t>(float_bytes(section.floats));
  }
  return section;
}

// Whether one kind of tile holds all parts.
bool one_kind(std::span<const model::tensor> parts, const options& chosen) {
  return std::all_of(parts.begin(), parts.end(), [&](const model::tensor& part) {
    return part.type == parts[0].type || (packs_w8(part, chosen) && packs_w8(parts[0], chosen));
  });
}

bool tile_aligned(std::span<const model::tensor> parts) {
  return std::all_of(parts.begin(), parts.end() - 1,
                     [](const model::tensor& part) { return part.rows % tile_rows == 0; });
}

void add_sections(linear_plan& plan, const options& chosen) {
  const auto all_tiles = static_cast<int>(tiles_of(plan.rows));
  if (one_kind(plan.parts, chosen)) {
    plan.sections.push_back(section_of(plan.parts[0], chosen));
  } else if (!plan.interleave16 && tile_aligned(plan.parts)) {
    int first = 0;
    for (const model::tensor& part : plan.parts) {
      plan.sections.push_back(section_of(part, chosen));
      plan.sections.back().first_tile = first;
      plan.sections.back().tiles = static_cast<int>(tiles_of(part.rows));
      first += plan.sections.back().tiles;
    }
    return;
  } else {
    linear_section floats;
    floats.tile_bytes = static_cast<std::uint64_t>(plan.columns) * tile_rows * 4;
    plan.sections.push_back(floats);
  }
  plan.sections.back().tiles = all_tiles;
}

}  // namespace

std::uint64_t linear_plan::bytes() const noexcept {
  std::uint64_t sum = 0;
  for (const linear_section& section : sections) {
    sum += static_cast<std::uint64_t>(section.tiles) * section.tile_bytes;
  }
  return sum;
}

result<linear_plan> plan_linear(std::span<const model::tensor> parts,
                                bool interleave16,
                                const options& chosen) {
  if (parts.empty()) return invalid("tensors", "a matrix needs at least one part");
  linear_plan plan{parts, interleave16, 0, 0, {}};
  std::int64_t rows = 0;
  for (const model::tensor& part : parts) {
    FORETOKEN_TRY(check_part(part, parts[0].columns));
    rows += interleave16 ? (part.rows + 15) / 16 * 16 : part.rows;
  }
  if (rows > rows_max) return invalid(parts[0].name, "the fused matrix has too many rows");
  if (interleave16 && (parts.size() != 2 || parts[0].rows != parts[1].rows)) {
    return invalid(parts[0].name, "only two matrices of equally many rows can be interleaved");
  }
  plan.rows = static_cast<int>(rows);
  plan.columns = static_cast<int>(parts[0].columns);
  add_sections(plan, chosen);
  return plan;
}

std::uint64_t packed_bytes(std::span<const model::tensor> parts,
                           const options& chosen,
                           bool interleave16) {
  const auto plan = plan_linear(parts, interleave16, chosen);
  return plan ? plan->bytes() : 0;
}

}  // namespace foretoken::cpu
