// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "model/micro_batch.hpp"
#include "model/ops.hpp"

namespace foretoken::model {

// What ops::begin() requires of a micro-batch, the same on every device. A breach is our own bug:
// errc::internal, with the part at fault.
status check_batch(const ops& device, const micro_batch& batch);

}  // namespace foretoken::model
