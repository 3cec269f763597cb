// SPDX-License-Identifier: Apache-2.0
#pragma once
// A model's weights in the order of the cluster-resident step, beside those of the general path:
// prefill and decode steps that do not fit lanes keep using the latter.

#include "gpu/weight_arena.hpp"
#include "gpu/weights.hpp"

namespace foretoken::gpu {

// The compiled shape that runs these weights, or why decode steps stay on the general path
// (unsupported). `filled`: the general path's matrices, or only their forms.
result<cluster::model_shape> cluster_shape(const model::model_file& file, const weights& filled);

// Takes the memory and fills it, or only counts, as `space` does. REQUIRES `filled` as above, of
// which the embedding and the rope table are used where they are.
cluster_weights load_cluster_weights(const model::model_file& file,
                                     cluster::model_shape shape,
                                     const weights& filled,
                                     arena& space);

}  // namespace foretoken::gpu
