// SPDX-License-Identifier: Apache-2.0
#include "cpu/linear.hpp"

#include <algorithm>

#include "base/assert.hpp"
#include "cpu/dispatch.hpp"
#include "cpu/linear_kernels.hpp"
#include "cpu/linear_plan.hpp"

namespace foretoken::cpu {
namespace {

matrix_column integer_column(const integer_form& form, const std::byte* tile, int k) noexcept {
  const std::byte* const record =
      tile + form.record_bytes() * static_cast<std::size_t>(k / block_columns);
  const std::byte* const scales = record + form.quant_bytes();
  const int within = k % block_columns;
  const std::size_t group_bytes = form.scale_bytes() / static_cast<std::size_t>(form.groups());
  const std::size_t at = group_bytes * static_cast<std::size_t>(within / form.group);
  matrix_column out;
  out.values = matrix_column::form::quants;
  out.first = record + within / 4 * 4 * tile_rows;
  out.byte = within % 4;
  out.offset = form.offset;
  out.wide_scales = form.wide_scales;
  out.scales = scales + at;
  if (form.has_minima) out.minima = scales + form.scale_bytes() + at;
  return out;
}

matrix_column float_column(float_form form, const std::byte* tile, int k) noexcept {
  using kind = matrix_column::form;
  matrix_column out;
  out.values = form == float_form::f32   ? kind::f32
               : form == float_form::f16 ? kind::f16
                                         : kind::bf16;
  out.first = tile + std::size_t{form == float_form::f32 ? 4u : 2u} *
                         static_cast<std::size_t>(k * tile_rows);
  return out;
}

class packed_linear final : public linear {
 public:
  packed_linear(linear_plan plan, memory_block memory, const linear_kernels& kernels)
      : rows_(plan.rows),
        columns_(plan.columns),
        bytes_(plan.bytes()),
        sections_(std::move(plan.sections)),
        memory_(std::move(memory)),
        kernels_(kernels) {}

  int rows() const noexcept override { return rows_; }
  int columns() const noexcept override { return columns_; }
  std::span<const std::byte> packed() const noexcept override { return {memory_.data(), bytes_}; }
  std::uint64_t bytes() const noexcept override { return bytes_; }
  input_parts reads() const noexcept override {
    input_parts all;
    for (const linear_section& section : sections_) {
      const integer_form& form = section.integers;
      all = all | input_parts{!section.integer, section.integer && form.reads_groups()};
    }
    return all;
  }

  scale_places scales(int tile) const noexcept override {
    const place at = find(tile);
    return {at.data + at.section->integers.quant_bytes(), at.section->integers.record_bytes(),
            columns_ / block_columns};
  }

  matrix_column column(int tile, int k) const noexcept override {
    const place at = find(tile);
    if (at.section->integer) return integer_column(at.section->integers, at.data, k);
    return float_column(at.section->floats, at.data, k);
  }

  const std::byte* tile_data(int tile) const noexcept override { return find(tile).data; }

  void apply(int tile,
             const activations& x,
             int row_begin,
             int row_end,
             float* y,
             std::size_t y_stride,
             reads_after after) const override {
    const activations::storage& from = x.get();
    FORETOKEN_ASSERT(tile >= 0 && tile < tiles() && row_begin >= 0 && row_end <= from.rows_max &&
                     static_cast<std::size_t>(columns_) <= from.stride);
    if (row_begin >= row_end) return;
    const place at = find(tile);
    if (at.section->integer) {
      kernels_.integer_tile({at.data, after, columns_ / block_columns}, at.section->integers, from,
                            {row_begin, row_end}, {y, y_stride});
    } else {
      kernels_.float_tile(at.data, columns_, at.section->floats, from, {row_begin, row_end},
                          {y, y_stride});
    }
  }

 private:
  struct place {
    const linear_section* section;
    const std::byte* data;
  };
  place find(int tile) const noexcept {
    const std::byte* at = memory_.data();
    for (const linear_section& section : sections_) {
      const int within = tile - section.first_tile;
      if (within < section.tiles) {
        return {&section, at + section.tile_bytes * static_cast<std::uint64_t>(within)};
      }
      at += section.tile_bytes * static_cast<std::uint64_t>(section.tiles);
    }
    return {&sections_.back(), at};
  }

  int rows_;
  int columns_;
  std::uint64_t bytes_;
  std::vector<linear_section> sections_;
  memory_block memory_;
  const linear_kernels& kernels_;
};

}  // namespace

const linear_kernels& kernels_of(isa path) noexcept {
#if defined(__x86_64__)
  if (path == isa::avx512) return avx512_kernels;
  if (path == isa::avx2) return avx2_kernels;
#endif
  FORETOKEN_ASSERT(path == isa::portable);
  return portable_kernels;
}

result<linear::blank> lay_out_plan(linear_plan plan,
                                   const options& chosen,
                                   const std::string& name) {
  const auto path = choose_isa(chosen.path);
  if (!path) return path.error();
  auto memory = memory_block::take(plan.bytes());
  if (!memory) {
    error failure = memory.error();
    failure.field = name;
    return failure;
  }
  const std::span bytes(memory->data(), plan.bytes());
  return linear::blank{std::make_unique<packed_linear>(std::move(plan), std::move(memory).value(),
                                                       kernels_of(path.value())),
                       bytes};
}

result<linear::blank> linear::lay_out(std::span<const model::tensor> parts,
                                      bool interleave16,
                                      const options& chosen) {
  auto plan = plan_linear(parts, interleave16, chosen);
  if (!plan) return plan.error();
  return lay_out_plan(std::move(plan).value(), chosen, parts[0].name);
}

result<std::unique_ptr<const linear>> linear::pack(std::span<const model::tensor> parts,
                                                   bool interleave16,
                                                   const options& chosen,
                                                   thread_pool& threads) {
  auto made = lay_out(parts, interleave16, chosen);
  if (!made) return std::move(made).error();
  const auto plan = plan_linear(parts, interleave16, chosen);
  std::byte* at = made->bytes.data();
  for (const linear_section& section : plan->sections) {
    threads.run(section.tiles, [&](int ticket, int) {
      pack_tile(*plan, section, section.first_tile + ticket,
                at + section.tile_bytes * static_cast<std::uint64_t>(ticket));
    });
    at += section.tile_bytes * static_cast<std::uint64_t>(section.tiles);
  }
  return std::move(made->matrix);
}

}  // namespace foretoken::cpu
