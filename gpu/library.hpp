// SPDX-License-Identifier: Apache-2.0
#pragma once
// What the device library (libforetoken_gpu.so) gives the program. All device code and the CUDA
// runtime live in that one file; the program opens it on demand and needs neither to run.
//
// Both sides are built from one source tree by one compiler: library_version() is compared before
// anything else is called. The library stays open until the process ends.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "gpu/options.hpp"
#include "model/model_file.hpp"
#include "model/ops.hpp"

namespace foretoken::gpu {

// Weights in device memory. Immutable; shared by the executors of one device.
class weights;

struct device_facts {
  int ordinal = 0;
  std::string name;
  int major = 0, minor = 0;  // compute capability
  int multiprocessors = 0;
  std::uint64_t memory_bytes = 0;
  std::string problem;  // why it cannot be used; empty when it can
};

// Device memory a model will take, as named parts; computed before any is taken.
struct memory_plan {
  std::uint64_t context_bytes = 0;  // the driver's, with our code loaded
  // Repacked weights (once a path that the kind of device has), norms, biases, rope tables.
  std::uint64_t weight_bytes = 0;
  std::uint64_t kv_bytes = 0;         // the pool
  std::uint64_t workspace_bytes = 0;  // activations, logits, page tables
  std::uint64_t beside_bytes = 0;     // the same for the steps beside the first, all together
  std::uint64_t recording_bytes = 0;  // the driver's, of as many recorded steps as are kept
  std::uint64_t pinned_bytes = 0;     // host memory: inputs and results of a step; not in the total
  int kv_pages = 0;
  std::uint64_t kv_page_bytes = 0;
  std::uint64_t total_bytes() const noexcept {
    return context_bytes + weight_bytes + kv_bytes + workspace_bytes + beside_bytes +
           recording_bytes;
  }
};

class library {
 public:
  virtual ~library() = default;
  // Those that there are, usable or not; none without a driver's device. Errors: not_found (no
  // driver), unsupported (a driver that is too old).
  virtual result<std::vector<device_facts>> devices() const = 0;
  // Errors: unsupported (a shape the kernels do not have).
  virtual result<memory_plan> plan_memory(const model::model_file& file,
                                          const options& chosen) const = 0;
  // Errors: unsupported, exhausted (device memory), device. Afterwards `file` may be dropped.
  virtual result<std::shared_ptr<const weights>> prepare_weights(
      const model::model_file& file,
      const options& chosen,
      const model::load_progress& progress) const = 0;
  // Which kernels decode steps of these weights run on and, if not the fastest, why; for people.
  virtual std::string decode_path(const weights& of) const = 0;
  // Called on the executor's own thread. Errors: exhausted, device.
  virtual result<std::unique_ptr<model::ops>> make_ops(std::shared_ptr<const weights> from,
                                                       const options& chosen) const = 0;
  // True once this device reported an error after which no call for it can be trusted. All later
  // ones fail with errc::device; only a new process can use the device again.
  virtual bool lost(int ordinal) const noexcept = 0;
};

// Compared as text, library against program: release, interface, compiler, and the sizes of what
// both sides hold. The number goes up when a member changes its meaning.
inline std::string interface_version() {
  std::string text = "foretoken " FORETOKEN_VERSION " interface 5, gcc " __VERSION__ ", sizes";
  for (const std::size_t size :
       {sizeof(options), sizeof(memory_plan), sizeof(device_facts), sizeof(model::model_file),
        sizeof(model::hyperparameters), sizeof(model::layer_tensors), sizeof(model::slice),
        sizeof(model::micro_batch), sizeof(model::step_result), sizeof(model::sampled)}) {
    text += ' ' + std::to_string(size);
  }
  return text;
}

using version_function = const char*();
using open_function = const library*();
constexpr const char* version_symbol = "foretoken_gpu_version";
constexpr const char* open_symbol = "foretoken_gpu_open";

}  // namespace foretoken::gpu
