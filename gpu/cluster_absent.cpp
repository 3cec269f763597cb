// SPDX-License-Identifier: Apache-2.0
// The emulated device has no clusters: the general path runs every step there.
#include "gpu/cluster_step.hpp"

namespace foretoken::gpu::cluster {

bool supported(int) {
  return false;
}
limits limits_of(model_shape) {
  return {};
}
bool lane_fits(model_shape, std::span<const std::int32_t>) {
  return false;
}
status prepare(model_shape) {
  return unsupported("device", "no clusters");
}
result<int> lanes_of_device(model_shape) {
  return 0;
}
status launch(model_shape, const step_arguments&, CUstream_st*) {
  return unsupported("device", "no clusters");
}

}  // namespace foretoken::gpu::cluster
