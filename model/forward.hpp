// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "model/ops.hpp"

namespace foretoken::model {

// The same in two halves: queue() gives the device its work, what is left is finish()'s.
status queue(ops& device, const micro_batch& batch, step_result& out);

// One step of the network: the order of the fused operations, the same for every architecture and
// device. Errors: device, or internal when `batch` breaks the contract of ops::begin.
result<step_result> forward(ops& device, const micro_batch& batch);

}  // namespace foretoken::model
