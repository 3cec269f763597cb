// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace foretoken::tools {

// 2: what the caller gave is wrong (flags, configuration, model, prompt). 70: a device is lost for
// good. 1: anything else that went wrong while running.
enum exit_code : int { exit_success = 0, exit_failure = 1, exit_usage = 2, exit_device = 70 };

}  // namespace foretoken::tools
