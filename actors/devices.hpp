// SPDX-License-Identifier: Apache-2.0
#pragma once
// The one place that knows which devices exist.

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "actors/engine.hpp"
#include "cpu/options.hpp"
#include "gpu/kv_form.hpp"
#include "model/model_file.hpp"
#include "model/ops.hpp"

namespace foretoken::actors {

struct loaded_model;

// Makes a fresh device for one executor, on the executor's own thread.
using device_factory = std::function<result<std::unique_ptr<model::ops>>()>;

// A model on a device that was chosen for it: memory planned (logged, and refused over the limit)
// before it was taken, weights in place.
struct prepared_device {
  std::string name;     // for people
  std::string backend;  // "cpu" or "cuda:0", for labels
  int kv_pages = 0;
  // errc::device once a GPU is lost; but when no other is left it gives the CPU instead, if the
  // options allow it.
  device_factory make;
  // True once make() can only fail, until the process is started anew. May be empty.
  std::function<bool()> gone;
};

// What a GPU stores for cache.kv. Errors: unsupported (forms that only CPUs have).
result<gpu::kv_form> gpu_kv_form(cpu::kv_type kv);

struct prepared_devices {
  std::vector<prepared_device> all;  // never empty
  // True once every GPU is lost: the process should end after a drain, to be started anew.
  std::function<bool()> lost;
};

// By options::device. "auto" takes a GPU when one is there and the model fits it, and says why not;
// "cuda:0,1" takes both, with the model and a pool on each.
result<prepared_devices> choose_devices(const model::model_file& file,
                                        const options& chosen,
                                        const std::shared_ptr<counters>& metrics,
                                        const model::load_progress& progress);

// From options to everything the actors share: the file read, its device prepared.
result<std::shared_ptr<const loaded_model>> prepare_model(const options& chosen,
                                                          const std::shared_ptr<counters>& metrics,
                                                          const load_progress& progress);

}  // namespace foretoken::actors
