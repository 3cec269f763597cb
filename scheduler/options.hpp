// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace foretoken::scheduler {

struct options {
  // All of each device by itself.
  int sequences_max = 64;     // running at once; the others wait
  int waiting_max = 1024;     // sequences that may wait; more are refused
  int step_tokens_max = 512;  // rows of one micro-batch
  int prefill_chunk = 128;    // prompt tokens of all sequences in a step that also decodes
  int credits = 2;            // micro-batches in flight (one runs, one is staged)
  // The one behind is planned when the running one is nearly done, so that late arrivals join it;
  // else as soon as there is a credit.
  bool stage_late = true;
  // On a device that runs several beside each other: another starts at once while those in flight
  // have so few rows together; else late, as one that is staged. All but one of its places take so
  // many rows at most.
  int beside_rows_max = 128;
};

}  // namespace foretoken::scheduler
