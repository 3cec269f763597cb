// SPDX-License-Identifier: Apache-2.0
#pragma once
// A model's weights in the order of the cluster-resident step, beside those of the general path:
// prefill and decode steps that do not fit lanes keep using the latter.

#include "gpu/weight_arena.hpp"
#include "gpu/weights.hpp"

namespace foretoken::gpu {

struct cluster_choice {
  cluster::model_shape shape{};
  int lanes = 0;
};
// The compiled shape that runs these weights and its lanes, or why decode steps stay on the general
// path (unsupported). `filled`: the general path's matrices, or only their forms. By the kind of
// the device alone, which needs no context on it:
result<cluster_choice> clusters_by_kind(const model::model_file& file,
                                        const options& chosen,
                                        const weights& filled);
// As the driver says on the thread's device, which may be a part of one. Errors: exhausted too.
result<cluster_choice> clusters_there(const model::model_file& file,
                                      const options& chosen,
                                      const weights& filled);
// Lanes of a device of which the driver says how many clusters it runs at once, as above.
result<int> lanes_from(const result<int>& at_once);

// Takes the memory and fills it, or only counts, as `space` does. REQUIRES `filled` as above, of
// which the embedding and the rope table are used where they are.
cluster_weights load_cluster_weights(const model::model_file& file,
                                     const cluster_choice& choice,
                                     const weights& filled,
                                     arena& space);

}  // namespace foretoken::gpu
