// SPDX-License-Identifier: Apache-2.0
#include "config/bind.hpp"

namespace foretoken::config {

void add_net_keys(std::vector<key>&) {}

}  // namespace foretoken::config
