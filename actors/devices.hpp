// SPDX-License-Identifier: Apache-2.0
#pragma once
// The one place that knows which devices exist.

#include <functional>
#include <memory>
#include <string>

#include "actors/engine.hpp"
#include "cpu/options.hpp"
#include "gpu/kv_form.hpp"
#include "model/model_file.hpp"
#include "model/ops.hpp"

namespace foretoken::actors {

struct loaded_model;

// A model on the device that was chosen for it: memory planned (logged, and refused over the limit)
// before it was taken, weights in place.
struct prepared_device {
  std::string name;  // for people
  int kv_pages = 0;
  // A fresh device for one executor, on the executor's own thread. After a GPU is lost it gives the
  // CPU instead, when the options allow it, else errc::device.
  std::function<result<std::unique_ptr<model::ops>>()> make;
  // True once a GPU is lost: the process should end after a drain, to be started anew.
  std::function<bool()> lost;
  // True once make() can only fail, until the process is started anew.
  std::function<bool()> gone;
};

// What a GPU stores for cache.kv. Errors: unsupported (forms that only CPUs have).
result<gpu::kv_form> gpu_kv_form(cpu::kv_type kv);

// By options::device. "auto" takes a GPU when one is there and the model fits it, and says why not.
result<prepared_device> choose_device(const model::model_file& file,
                                      const options& chosen,
                                      const std::shared_ptr<counters>& metrics,
                                      const model::load_progress& progress);

// From options to everything the actors share: the file read, its device prepared.
result<std::shared_ptr<const loaded_model>> prepare_model(const options& chosen,
                                                          const std::shared_ptr<counters>& metrics,
                                                          const load_progress& progress);

}  // namespace foretoken::actors
