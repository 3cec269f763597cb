// SPDX-License-Identifier: Apache-2.0
// The emulated devices run no clusters: the general path takes every step there. The second is of a
// kind that has them, but a part of one, without room for any.
#include "gpu/cluster_step.hpp"

namespace foretoken::gpu::cluster {

bool supported(int ordinal) {
  return ordinal == 1;
}
limits limits_of(model_shape, int) {
  return {};
}
status prepare(model_shape) {
  return {};
}
result<int> lanes_of_device(model_shape) {
  return 0;
}
status launch(model_shape, const step_arguments&, CUstream_st*) {
  return unsupported("device", "no clusters");
}

}  // namespace foretoken::gpu::cluster
