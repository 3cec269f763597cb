// SPDX-License-Identifier: Apache-2.0
#include "gpu/cluster_weights.hpp"

#include <algorithm>
#include <span>

#include "gpu/cluster_layout.hpp"
#include "gpu/each_block.hpp"
#include "gpu/weight_rows.hpp"

namespace foretoken::gpu {
namespace {

error stays(std::string why) {
  return {errc::unsupported, std::move(why), "model"};
}

bool any_bias(const model::layer_tensors& layer) {
  return std::ranges::any_of(
      std::initializer_list<const model::tensor*>{&layer.q_bias, &layer.k_bias, &layer.v_bias,
                                                  &layer.o_bias, &layer.up_bias, &layer.down_bias},
      [](const model::tensor* bias) { return !bias->empty(); });
}

bool coded(const packed_matrix& m) {
  return m.form == weight_form::w4;
}
bool coded_layers(const weights& filled) {
  return std::ranges::all_of(filled.layers, [&](const layer_weights& layer) {
    return coded(layer.qkv) && coded(layer.o) && coded(layer.gate_up) && coded(layer.down);
  });
}

cluster::coded_matrix view(const coded_rows& from) {
  return {from.codes, from.scale, from.minimum};
}

void pack_one_layer(const model::layer_tensors& from,
                    cluster::model_shape shape,
                    bool neighbours,
                    cluster::layer_place place,
                    std::span<std::byte> out) {
  const coded_rows q = read_codes(from.q), k = read_codes(from.k), v = read_codes(from.v);
  const coded_rows o = read_codes(from.o), gate = read_codes(from.gate);
  const coded_rows up = read_codes(from.up), down = read_codes(from.down);
  pack_layer(shape, {view(q), view(k), view(v), view(o), view(gate), view(up), view(down)},
             neighbours, place, out);
}

// The bytes are there once on the host and once on the device.
const std::byte* streams_of_layers(const model::model_file& file,
                                   cluster::model_shape shape,
                                   arena& space) {
  const int layers = file.shape.layers;
  const std::size_t bytes = cluster::layer_stream_bytes(shape, layers);
  std::byte* const to = space.take(bytes);
  if (space.counting()) return nullptr;
  std::vector<std::byte> packed(bytes);
  each_block(layers, 1, [&](int layer, int) {
    pack_one_layer(file.tensors.layers[static_cast<std::size_t>(layer)], shape,
                   file.shape.rope_neighbours, {layer, layers}, packed);
  });
  space.put(to, packed.data(), bytes);
  return to;
}

const std::byte* streams_of_head(const model::tensor& head,
                                 cluster::model_shape shape,
                                 arena& space) {
  const std::size_t bytes = cluster::head_stream_bytes(shape);
  std::byte* const to = space.take(bytes);
  if (space.counting()) return nullptr;
  std::vector<std::byte> packed(bytes);
  const coded_rows rows = read_codes(head);
  each_block(cluster::blocks, 1,
             [&](int rank, int) { pack_head(shape, view(rows), rank, packed); });
  space.put(to, packed.data(), bytes);
  return to;
}

// [2 layers + 1][width] in the order of the step.
const float* gains(const model::model_file& file, arena& space) {
  const auto width = static_cast<std::size_t>(file.shape.width);
  std::vector<float> all((2 * file.tensors.layers.size() + 1) * width);
  float* to = all.data();
  const auto next = [&](const model::tensor& norm) {
    model::dequantise(norm, 0, norm.rows, to);
    to += width;
  };
  for (const model::layer_tensors& layer : file.tensors.layers) {
    next(layer.attention_norm);
    next(layer.ffn_norm);
  }
  next(file.tensors.final_norm);
  return space.floats(all);
}

}  // namespace

result<cluster_choice> clusters_by_kind(const model::model_file& file,
                                        const options& chosen,
                                        const weights& filled) {
  if (chosen.kv != kv_form::f16) return stays("keys and values are kept with 8 bits");
  if (!cluster::supported(filled.ordinal)) {
    return stays("the device has no clusters of 16 multiprocessors");
  }
  const auto shape = cluster::shape_for(file.shape);
  if (!shape) return shape.error();
  if (!coded_layers(filled)) return stays("its layers are not kept as 4-bit codes");
  if (std::ranges::any_of(file.tensors.layers, any_bias)) return stays("the model has biases");
  if (file.tensors.norm_plus_one || filled.final_norm.range != 0) {
    return stays("the norms need more range than f16 gives");
  }
  if (filled.ropes.size() != 1 || filled.ropes[0].pairs != cluster::head_dim / 2 ||
      filled.padded.head_dim != cluster::head_dim) {
    return stays("heads are not rotated as a whole");
  }
  return cluster_choice{*shape, cluster::lanes_at_once};
}

result<int> lanes_from(const result<int>& at_once) {
  if (!at_once) {
    if (at_once.error().code == errc::exhausted) return at_once;
    return stays("the driver refuses clusters of 16 multiprocessors (" + at_once.error().message +
                 ")");
  }
  if (*at_once < 1) return stays("what there is of the device has no room for a cluster");
  return std::min(*at_once, cluster::lanes_at_once);
}

result<cluster_choice> clusters_there(const model::model_file& file,
                                      const options& chosen,
                                      const weights& filled) {
  auto out = clusters_by_kind(file, chosen, filled);
  if (!out) return out;
  const status ready = cluster::prepare(out->shape);
  const auto lanes =
      lanes_from(ready ? cluster::lanes_of_device(out->shape) : result<int>(ready.error()));
  if (!lanes) return lanes.error();
  out->lanes = *lanes;
  return out;
}

cluster_weights load_cluster_weights(const model::model_file& file,
                                     const cluster_choice& choice,
                                     const weights& filled,
                                     arena& space) {
  const cluster::model_shape shape = choice.shape;
  cluster_weights out;
  out.shape = shape;
  out.lanes = choice.lanes;
  out.view.layers = streams_of_layers(file, shape, space);
  if (coded(filled.head)) out.view.head = streams_of_head(file.tensors.head, shape, space);
  out.view.gains = gains(file, space);
  out.view.embedding = filled.embedding;
  out.view.angles = filled.ropes[0].angles;
  out.view.layer_count = file.shape.layers;
  out.view.norm_epsilon = file.shape.norm_epsilon;
  out.view.query_scale = file.shape.query_scale;
  out.view.embedding_scale = file.shape.embedding_scale;
  out.view.rope_neighbours = file.shape.rope_neighbours;
  return out;
}

}  // namespace foretoken::gpu
