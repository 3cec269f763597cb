// SPDX-License-Identifier: Apache-2.0
#pragma once
// The device library as an object, for who links it instead of opening it: its own entry, and tests
// over the emulated kernels.

#include "gpu/library.hpp"

namespace foretoken::gpu {

const library& linked();

}  // namespace foretoken::gpu
