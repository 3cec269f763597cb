// SPDX-License-Identifier: Apache-2.0
#pragma once
// Runs the real program (or a test program) as a person at a terminal would.

#include <string>
#include <vector>

namespace foretoken::test {

struct ended_program {
  int status = -1;         // exit status; -1 when a signal ended it
  double cpu_seconds = 0;  // of its own; wall time would measure what runs beside it
  std::string out, err;
};

// Cut off (by a signal) after a minute of processor time. argv[0] is `program`.
ended_program run_program(const std::string& program, const std::vector<std::string>& words);

// What a refusal may cost: a second, more when a sanitizer watches.
double refusal_seconds_max() noexcept;

}  // namespace foretoken::test
