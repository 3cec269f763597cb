// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <chrono>
#include <cstdint>

#include "gpu/kv_form.hpp"

namespace foretoken {
class counter;
}  // namespace foretoken

namespace foretoken::gpu {

// file: quantised weights keep their codes where those are exact on the device. f16: all weights as
// f16, each the nearest to the file's value. Both give the same bits.
enum class weight_mode { file, f16 };

struct options {
  int device = 0;                       // ordinal, as the driver counts
  int rows_max = 512;                   // rows of one step
  int beside_rows_max = 128;            // of one beside the first; more than rows_max: rows_max
  std::uint64_t kv_bytes = 256u << 20;  // KV pool, taken at start
  kv_form kv = kv_form::f16;            // decode steps run on clusters with f16 only
  int context_max = 0;                  // longest sequence; 0 = the model's own
  weight_mode weights = weight_mode::file;
  int flights = 1;     // steps that run beside each other: one of rows_max rows, the others of few
  bool graphs = true;  // replay recorded steps; off for a debugger
  // What may be spent, by all flights together, on recording steps of the usual sizes before the
  // first request; 0 = each is recorded when it first comes, and the requests in it wait.
  std::chrono::milliseconds record_at_start{500};
  // A test's fault: the step with this number (from 1) fails as a lost device does; 0 = never.
  std::uint64_t fail_at_step = 0;
  counter* kv_saturated = nullptr;  // keys and values clamped to the f16 range; outlives the ops
};

}  // namespace foretoken::gpu
