// SPDX-License-Identifier: Apache-2.0
#pragma once
// Everything an operator may choose, joined from the options of each folder. Their initialisers are
// the defaults; the keys that reach them stand in config/keys.cpp.

#include <chrono>

#include "actors/options.hpp"
#include "base/log.hpp"
#include "net/options.hpp"

namespace foretoken::config {

struct log_options {
  log::level lowest = log::level::info;
  log::format how = log::format::plain;
};

struct drain_options {
  std::chrono::milliseconds deadline{25'000};  // running streams get this long after SIGTERM
  std::chrono::milliseconds linger{0};  // keep accepting this long after readiness went false
};

struct settings {
  actors::options engine;
  net::options net;
  log_options log;
  drain_options drain;
};

}  // namespace foretoken::config
