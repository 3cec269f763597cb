// SPDX-License-Identifier: Apache-2.0
#pragma once
// Scheduler and cache against a simulated device, driven by one seed. The device remembers which
// token of which namespace stands at each position of each page, and "computes" the next token as a
// hash of the history it reads through the pages: a wrong page, copy, position or a stale page
// changes the stream or is found at once. Some sequences are poison: the device dies at one of
// their positions, each time; nobody else may be blamed for it.

#include <cstdint>
#include <string>

namespace foretoken::sim {

struct outcome {
  std::string failure;            // empty = every invariant held
  std::uint64_t fingerprint = 0;  // hash of every plan made
  std::uint64_t steps = 0, tokens = 0, preemptions = 0, recovered = 0, cached = 0, copies = 0;
  int finished = 0, cancelled = 0;
  int poison_deaths = 0, condemned = 0;  // devices killed by a sequence; sequences ended for it
  int large_steps = 0;                   // in the large one of several places
};

// What a deliberate fault in the simulated device or caller looks like, to prove the harness sees
// it.
enum class fault { none, skip_copies, forget_page, wrong_position, blame_staged };

outcome run(std::uint64_t seed, fault planted = fault::none);

}  // namespace foretoken::sim
