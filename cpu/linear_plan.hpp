// SPDX-License-Identifier: Apache-2.0
#pragma once
// How the parts of a fused matrix are laid out in tiles: decided once, used to count bytes and to
// pack.

#include <span>
#include <string>
#include <vector>

#include "cpu/linear_decode.hpp"
#include "cpu/linear_kernels.hpp"

namespace foretoken::cpu {

// Neighbouring tiles of one kind.
struct linear_section {
  int first_tile = 0;
  int tiles = 0;
  bool integer = false;
  integer_form integers;                // when integer
  float_form floats = float_form::f32;  // otherwise
  std::uint64_t tile_bytes = 0;
};

struct linear_plan {
  std::span<const model::tensor> parts;
  bool interleave16 = false;
  int rows = 0;
  int columns = 0;
  std::vector<linear_section> sections;
  std::uint64_t bytes() const noexcept;
};

result<linear_plan> plan_linear(std::span<const model::tensor> parts,
                                bool interleave16,
                                const options& chosen);

// The matrix of a plan before anything is packed into it; `name` is for messages.
result<linear::blank> lay_out_plan(linear_plan plan,
                                   const options& chosen,
                                   const std::string& name);

// Fills one tile; `to` is zero before.
void pack_tile(const linear_plan& plan, const linear_section& section, int tile, std::byte* to);

}  // namespace foretoken::cpu
