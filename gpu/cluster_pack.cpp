// SPDX-License-Identifier: Apache-2.0
// Weights in the order in which the cluster-resident step streams them (cluster_layout.hpp).
#include <cstring>

#include "gpu/cluster_layout.hpp"
#include "gpu/cluster_step.hpp"

namespace foretoken::gpu::cluster {
namespace {

// Sixteen source rows of one tile; null: a row of zeros.
struct tile_row {
  const std::uint8_t* codes = nullptr;
  const std::uint16_t* scale = nullptr;
  const std::uint16_t* minimum = nullptr;
};
using tile_rows = tile_row[16];

tile_row row_of(const coded_matrix& m, int row, int columns) {
  const auto r = static_cast<std::size_t>(row), c = static_cast<std::size_t>(columns);
  return {m.codes.data() + r * c, m.scale.data() + r * (c / 32), m.minimum.data() + r * (c / 32)};
}

// Value j of lane l: row l/4 + 8 (j/2 % 2), column 2 (l%4) + 8 (j/4) + j%2; code j in the word at
// bit 4 (j/2) + 16 (j%2), so that the pairs of the four fragment registers fall out of one shift.
std::uint32_t word_of(const tile_rows& rows, int lane, int first_column) {
  std::uint32_t word = 0;
  for (int j = 0; j < 8; ++j) {
    const tile_row& row = rows[lane / 4 + 8 * (j / 2 % 2)];
    const int column = first_column + 2 * (lane % 4) + 8 * (j / 4) + j % 2;
    const std::uint32_t code = row.codes != nullptr ? row.codes[column] : 0u;
    word |= code << (4 * (j / 2) + 16 * (j % 2));
  }
  return word;
}

// One segment of a tile: `steps` k16 steps from step `first`.
void pack_record(const tile_rows& rows, int first, int steps, std::byte* record) {
  for (int i = 0; i < steps; ++i) {
    for (int lane = 0; lane < 32; ++lane) {
      const std::uint32_t word = word_of(rows, lane, (first + i) * 16);
      const int whole = steps / 4 * 4;
      const int at = i < whole ? i / 4 * 512 + lane * 16 + i % 4 * 4 : i * 128 + lane * 4;
      std::memcpy(record + at, &word, 4);
    }
  }
  std::byte* const scales = record + steps * 128;
  const int first_group = first / 2, groups = (first + steps + 1) / 2 - first_group;
  for (int group = 0; group < groups; ++group) {
    for (int g = 0; g < 8; ++g) {
      std::uint16_t four[4] = {};
      for (int h = 0; h < 2; ++h) {
        const tile_row& row = rows[g + 8 * h];
        if (row.codes == nullptr) continue;
        four[2 * h] = row.scale[first_group + group];
        four[2 * h + 1] = row.minimum[first_group + group];
      }
      std::memcpy(scales + group * 64 + g * 8, four, 8);
    }
  }
}

template <class S>
void pack_qkv(const coded_layer& from, bool neighbours, int rank, std::byte* block) {
  for (int tile = rank; tile < S::tiles_qkv; tile += blocks) {
    tile_rows rows;
    for (int i = 0; i < 16; ++i) {
      const qkv_row what = qkv_row_of(tile, i, S::heads, S::kv_heads, neighbours);
      const coded_matrix& m = what.part == 0 ? from.q : what.part == 1 ? from.k : from.v;
      rows[i] = row_of(m, what.head * head_dim + what.dim, S::width);
    }
    for (int s = 0; s < parts; ++s) {
      pack_record(rows, s * S::steps_width, S::steps_width,
                  block + S::at_q + (tile / blocks * parts + s) * S::record_in);
    }
  }
}

template <class S>
void pack_output(const coded_matrix& m, int steps, int rank, std::byte* region) {
  for (int tile = rank; tile < S::tiles_width; tile += blocks) {
    tile_rows rows;
    for (int i = 0; i < 16; ++i) rows[i] = row_of(m, tile * 16 + i, steps * 64);
    for (int s = 0; s < parts; ++s) {
      pack_record(rows, s * steps, steps,
                  region + (tile / blocks * parts + s) * record_bytes(steps));
    }
  }
}

template <class S>
void pack_gate(const coded_layer& from, int rank, std::byte* block) {
  for (int tile = rank; tile < S::tiles_gate; tile += blocks) {
    tile_rows rows;
    for (int i = 0; i < 16; ++i) {
      rows[i] = row_of(i < 8 ? from.gate : from.up, gate_feature(tile, i % 8), S::width);
    }
    for (int s = 0; s < parts; ++s) {
      pack_record(rows, s * S::steps_width, S::steps_width,
                  block + S::at_g + (tile / blocks * parts + s) * S::record_in);
    }
  }
}

template <class S>
void pack_layer_of(const coded_layer& from, bool neighbours, layer_place at, std::byte* streams) {
  for (int rank = 0; rank < blocks; ++rank) {
    std::byte* const block =
        streams + (static_cast<std::size_t>(rank) * static_cast<std::size_t>(at.layers) +
                   static_cast<std::size_t>(at.layer)) *
                      S::layer_bytes;
    pack_qkv<S>(from, neighbours, rank, block);
    pack_output<S>(from.o, S::steps_out, rank, block + S::at_o);
    pack_gate<S>(from, rank, block);
    pack_output<S>(from.down, S::steps_ffn, rank, block + S::at_d);
  }
}

template <class S>
void pack_head_of(const coded_matrix& head, int rank, std::byte* streams) {
  std::byte* const block = streams + static_cast<std::size_t>(rank) * S::head_bytes;
  for (int number = 0; number < S::h_tiles; ++number) {
    const int tile = rank * S::h_tiles + number;
    if (tile >= S::tiles_head) return;
    tile_rows rows;
    for (int i = 0; i < 16; ++i) {
      rows[i] = tile * 16 + i < S::vocabulary ? row_of(head, tile * 16 + i, S::width) : tile_row{};
    }
    for (int s = 0; s < parts; ++s) {
      pack_record(rows, s * S::steps_width, S::steps_width,
                  block + static_cast<std::size_t>(number * parts + s) * S::record_in);
    }
  }
}

// work(shape<...>) for the compiled shape.
template <class Work>
auto with_shape(model_shape shape, Work work) {
  return shape == model_shape::tiny ? work(tiny_rows8{}) : work(smollm2_135m_rows8{});
}

}  // namespace

std::size_t layer_stream_bytes(model_shape shape, int layers) {
  return with_shape(shape, [&]<class S>(S) {
    return std::size_t{blocks} * static_cast<std::size_t>(layers) * S::layer_bytes;
  });
}
std::size_t head_stream_bytes(model_shape shape) {
  return with_shape(shape, []<class S>(S) { return std::size_t{blocks} * S::head_bytes; });
}

void pack_layer(model_shape shape,
                const coded_layer& from,
                bool rope_neighbours,
                layer_place place,
                std::span<std::byte> streams) {
  with_shape(shape,
             [&]<class S>(S) { pack_layer_of<S>(from, rope_neighbours, place, streams.data()); });
}

void pack_head(model_shape shape,
               const coded_matrix& head,
               int block,
               std::span<std::byte> streams) {
  with_shape(shape, [&]<class S>(S) { pack_head_of<S>(head, block, streams.data()); });
}

result<model_shape> shape_for(const model::hyperparameters& given) {
  const auto fits = [&](auto one) {
    using S = decltype(one);
    return given.width == S::width && given.heads == S::heads && given.kv_heads == S::kv_heads &&
           given.head_dim == head_dim && given.ffn == S::ffn && given.vocabulary == S::vocabulary;
  };
  if (given.norm != model::norm_kind::rms || given.post_norms || given.qk_norm ||
      given.activation != model::activation_kind::silu_gate || given.learned_positions ||
      given.attention_softcap != 0 || given.final_softcap != 0) {
    return unsupported("model", "the cluster path runs plain Llama layers only");
  }
  for (const model::layer_attention& layer : given.attention) {
    if (layer.window != 0 || layer.rope != 0) {
      return unsupported("model", "the cluster path knows no windows and one rope table");
    }
  }
  if (fits(smollm2_135m_rows8{})) return model_shape::smollm2_135m;
  if (fits(tiny_rows8{})) return model_shape::tiny;
  return unsupported("model", "no cluster kernel was compiled for this shape");
}

}  // namespace foretoken::gpu::cluster
