// SPDX-License-Identifier: Apache-2.0
// Decode while one other process keeps a core busy, beside the quiet throughput of the same minute:
// tickets, not halves, so that a thread that was put to sleep holds up one ticket only, and fewer
// threads when that happens all the time. Quiet and busy turns alternate, so a turn has the time
// in which the pool learns of the other; the median share counts. Aim: 45 % at one stream and at
// eight.
//   busy_bench [--model PATH] [--precision exact|fast] [--threads N] [--isa NAME] [--smoke]

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <vector>

#include "bench/steps.hpp"

using namespace foretoken;

namespace {

using clock_type = std::chrono::steady_clock;

// A process that computes without end; stopped at first, ends with this one.
class competitor {
 public:
  competitor() : process_(::fork()) {
    if (process_ != 0) return;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (unsigned long spin = 0;; ++spin) asm volatile("" : "+r"(spin));
  }
  competitor(const competitor&) = delete;
  competitor& operator=(const competitor&) = delete;
  ~competitor() {
    if (process_ < 0) return;
    ::kill(process_, SIGKILL);
    ::waitpid(process_, nullptr, 0);
  }
  bool there() const noexcept { return process_ > 0; }
  void rest() const noexcept { ::kill(process_, SIGSTOP); }
  void work() const noexcept { ::kill(process_, SIGCONT); }

 private:
  pid_t process_;
};

struct turn_lengths {
  int turns;
  double seconds;  // of each turn
  int context;
};

// Steps a second, by the clock on the wall: what a stall costs counts. Below 0 when a step failed.
double steps_per_second(model::ops& ops, const model::micro_batch& batch, double seconds) {
  int steps = 0;
  const auto start = clock_type::now();
  double passed = 0;
  while (passed < seconds) {
    if (!bench::run_step(ops, batch)) return -1;
    ++steps;
    passed = std::chrono::duration<double>(clock_type::now() - start).count();
  }
  return steps / passed;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

bool measure(model::ops& ops, const competitor& other, int streams, const turn_lengths& lengths) {
  if (!bench::fill_context(ops, streams, lengths.context)) return false;
  const auto batch = bench::batch_of(streams, lengths.context - 1, 1, ops.shape().vocabulary);
  std::vector<double> quiet, busy, share;
  for (int i = 0; i < lengths.turns; ++i) {
    other.rest();
    quiet.push_back(steps_per_second(ops, batch, lengths.seconds));
    other.work();
    busy.push_back(steps_per_second(ops, batch, lengths.seconds));
    other.rest();
    if (quiet.back() <= 0 || busy.back() <= 0) return false;
    share.push_back(busy.back() / quiet.back());
  }
  std::printf(
      "decode %2d at %d: quiet %8.1f tokens/s, busy %8.1f tokens/s, share %5.1f %% (%.1f to "
      "%.1f)\n",
      streams, lengths.context, streams * median(quiet), streams * median(busy),
      100 * median(share), 100 * *std::min_element(share.begin(), share.end()),
      100 * *std::max_element(share.begin(), share.end()));
  std::fflush(stdout);
  return true;
}

}  // namespace

int main(int count, char** arguments) {
  bench::step_settings with;
  if (!bench::parse_step_flags(count, arguments, with)) return 2;
  const competitor other;  // before any thread is started
  if (!other.there()) {
    std::fprintf(stderr, "busy_bench: cannot start a process\n");
    return 1;
  }
  other.rest();
  const auto ops = bench::make_ops(with);
  if (!ops) return 1;
  const turn_lengths lengths = with.smoke ? turn_lengths{2, 0.05, 16} : turn_lengths{9, 1.0, 128};
  for (const int streams : {1, 8}) {
    if (!measure(*ops, other, streams, lengths)) return 1;
  }
  return 0;
}
