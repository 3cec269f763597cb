// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>

#include "base/counters.hpp"

namespace foretoken::actors {

// What the process itself reports; read from the system at sampling time.
struct process_sample {
  double cpu_seconds = 0, start_time_seconds = 0;
  double resident_bytes = 0, virtual_bytes = 0;
  double open_fds = 0, max_fds = 0, threads = 0;
};
process_sample sample_process();

struct what_runs {
  std::string model;
  std::string backend;  // "cpu", "cuda:0,cuda:1"
};

// The Prometheus text page (format 0.0.4) of all counters, in the table's order.
std::string render_metrics(const counters& values,
                           const process_sample& process,
                           const what_runs& here);

}  // namespace foretoken::actors
