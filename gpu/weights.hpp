// SPDX-License-Identifier: Apache-2.0
#pragma once
// A model's weights in device memory, in the order of the kernels.
//
// Heads whose size is no multiple of 16, rotations of no whole 8 pairs and feed-forward sizes of no
// whole 8 are padded with zeros: kernels see `padded`, people and the contract see `shape`.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "gpu/cluster_step.hpp"
#include "gpu/kernels.hpp"
#include "gpu/library.hpp"
#include "gpu/runtime.hpp"
#include "model/hyperparameters.hpp"
#include "model/model_file.hpp"

namespace foretoken::gpu {

struct layer_weights {
  norm_parameters attention_norm, attention_post_norm, ffn_norm, ffn_post_norm;
  const float* q_norm = nullptr;  // [head_dim]
  const float* k_norm = nullptr;
  packed_matrix qkv, o, gate_up, down;
};

struct rope_table {
  const float* angles = nullptr;  // [context][2 * pairs] cosines, then sines
  int pairs = 0;                  // padded
};

// The same model for decode steps on clusters (cluster_weights.hpp).
struct cluster_weights {
  cluster::model_shape shape{};
  int lanes = 0;  // clusters at once
  cluster::weights view;
};

class weights {
 public:
  model::hyperparameters shape;   // the file's, context as used here
  model::hyperparameters padded;  // head_dim and ffn as the kernels see them
  int ordinal = 0;                // the device
  packed_matrix embedding, positions, head;
  norm_parameters final_norm;
  std::vector<layer_weights> layers;
  std::vector<rope_table> ropes;
  std::optional<cluster_weights> clusters;
  std::string decode_path;  // library::decode_path()
  runtime::buffer memory;   // what all of the above points into
};

// The shape as this device will run it; errors: unsupported.
result<model::hyperparameters> padded_shape(const model::hyperparameters& shape);
int padded_pairs(std::size_t pairs) noexcept;

// What load_weights() will take of device memory at most: it asks the driver whether clusters fit.
result<std::uint64_t> weight_bytes_of(const model::model_file& file,
                                      const options& chosen,
                                      int context);
result<std::shared_ptr<const weights>> load_weights(const model::model_file& file,
                                                    const options& chosen,
                                                    int context,
                                                    const model::load_progress& progress);

}  // namespace foretoken::gpu
