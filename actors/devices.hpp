// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "actors/protocol.hpp"

namespace foretoken::actors {

// From options to everything the actors share: the file read, its memory planned (logged, and
// refused over the limit) before it is taken, weights prepared, a factory of devices. The one place
// that knows which devices exist.
result<std::shared_ptr<const loaded_model>> prepare_model(const options& chosen,
                                                          std::shared_ptr<counters> metrics,
                                                          const load_progress& progress);

}  // namespace foretoken::actors
