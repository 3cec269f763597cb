// SPDX-License-Identifier: Apache-2.0
#include "actors/devices.hpp"

#include <algorithm>
#include <atomic>
#include <ctime>

#include "actors/protocol.hpp"
#include "base/log.hpp"
#include "cpu/backend.hpp"
#include "gpu/devices.hpp"

namespace foretoken::actors {
namespace {

double mib(std::uint64_t bytes) {
  return static_cast<double>(bytes) / (1024.0 * 1024.0);
}

status check_memory(const char* where, std::uint64_t total, const options& chosen) {
  if (chosen.memory_bytes_max == 0 || total <= chosen.memory_bytes_max) return {};
  return invalid("model.memory_bytes_max",
                 fmt::format("the model needs {:.1f} MiB of {} memory and the limit is {:.1f} MiB",
                             mib(total), where, mib(chosen.memory_bytes_max)));
}

status check_pages(int pages, std::uint64_t page_bytes) {
  if (pages >= 2) return {};
  return invalid("cache.kv_bytes", fmt::format("holds {} pages of {} bytes; at least 2 are needed",
                                               pages, page_bytes));
}

cpu::options cpu_options(const options& chosen, counters& metrics) {
  cpu::options device = chosen.cpu;
  device.rows_max = chosen.scheduler.step_tokens_max;  // the scheduler sends no more
  device.kv_saturated = &metrics.kv_saturated;
  device.threads_working = &metrics.cpu_threads_working;
  return device;
}

result<prepared_devices> prepare_cpu(const model::model_file& file,
                                     const options& chosen,
                                     const std::shared_ptr<counters>& metrics,
                                     const model::load_progress& progress) {
  auto device = cpu_options(chosen, *metrics);
  device.last_reader = true;
  const auto plan = cpu::plan_memory(file, device);
  if (!plan) return plan.error();
  log::info("model",
            "memory: weights {:.1f} MiB + KV up to {:.1f} MiB ({} pages) + workspace {:.1f} MiB = "
            "{:.1f} MiB",
            mib(plan->weight_bytes), mib(plan->kv_bytes), plan->kv_pages,
            mib(plan->workspace_bytes), mib(plan->total_bytes()));
  FORETOKEN_TRY(check_memory("main", plan->total_bytes(), chosen));
  FORETOKEN_TRY(check_pages(plan->kv_pages, plan->kv_page_bytes));
  auto weights = cpu::prepare_weights(file, device, progress);
  if (!weights) return weights.error();
  const auto make = [shared = std::move(weights).value(), device, metrics] {
    return cpu::make_ops(shared, device);
  };
  const std::string name = fmt::format("cpu ({})", cpu::path_name(chosen.cpu.path));
  return prepared_devices{{{name, "cpu", plan->kv_pages, make, {}}}, [] { return false; }};
}

// Takes over from a lost GPU: the file is read again, the page numbers stay those of the GPU's
// pool.
result<std::unique_ptr<model::ops>> take_over(const options& chosen,
                                              int pages,
                                              std::uint64_t fingerprint,
                                              const std::shared_ptr<counters>& metrics) {
  log::warn("executor", "no GPU is left: its requests move to the CPU until the process ends");
  auto file = model::model_file::load(chosen.model);
  if (!file) return std::move(file).error();
  if ((*file)->fingerprint != fingerprint) {
    return error{errc::device, "the GPU is lost and the model's file has changed since"};
  }
  auto device = cpu_options(chosen, *metrics);
  device.kv = chosen.cpu.kv == cpu::kv_type::int8 ? cpu::kv_type::int8 : cpu::kv_type::f16;
  device.packed.use = cpu::packed_cache::off;  // requests wait, and the process is to end
  const auto plan = cpu::plan_memory(**file, device);
  if (!plan) return plan.error();
  device.kv_bytes = static_cast<std::uint64_t>(pages) * plan->kv_page_bytes;
  auto weights = cpu::prepare_weights(**file, device);
  if (!weights) return std::move(weights).error();
  return cpu::make_ops(*weights, device);
}

gpu::options gpu_options(const options& chosen, counters& metrics, int ordinal) {
  gpu::options device = chosen.gpu;
  device.device = ordinal;
  device.rows_max = chosen.scheduler.step_tokens_max;  // the scheduler sends no more
  device.beside_rows_max = chosen.scheduler.beside_rows_max;
  device.kv_bytes = chosen.cpu.kv_bytes;
  device.context_max = chosen.context_max;
  if (const auto kv = gpu_kv_form(chosen.cpu.kv)) device.kv = *kv;
  device.kv_saturated = &metrics.kv_saturated;
  return device;
}

// What the GPUs of a process know of each other. Shared by their makers, which run on the
// executors' threads.
class gpu_family {
 public:
  gpu_family(const gpu::library& library, const std::vector<gpu::device_facts>& all, bool fallback)
      : library_(library), fallback_(fallback) {
    for (const auto& each : all) ordinals_.push_back(each.ordinal);
  }
  const gpu::library& library() const noexcept { return library_; }
  bool lost(int ordinal) const { return library_.lost(ordinal); }
  bool all_lost() const {
    return std::all_of(ordinals_.begin(), ordinals_.end(), [this](int each) { return lost(each); });
  }
  // One of them has the CPU in the place of all, once all are lost.
  bool takes_over(int ordinal) {
    int heir = none;
    return fallback_ && all_lost() &&
           (heir_.compare_exchange_strong(heir, ordinal) || heir == ordinal);
  }
  bool gone(int ordinal) const { return lost(ordinal) && !may_take_over(ordinal); }

 private:
  static constexpr int none = -1;
  bool may_take_over(int ordinal) const {
    const int heir = heir_.load();
    return fallback_ && all_lost() && (heir == none || heir == ordinal);
  }
  const gpu::library& library_;
  std::vector<int> ordinals_;
  bool fallback_;
  std::atomic<int> heir_{none};
};

result<prepared_device> prepare_gpu(const std::shared_ptr<gpu_family>& family,
                                    const gpu::device_facts& facts,
                                    const model::model_file& file,
                                    const options& chosen,
                                    const std::shared_ptr<counters>& metrics,
                                    const model::load_progress& progress) {
  const gpu::options device = gpu_options(chosen, *metrics, facts.ordinal);
  const auto plan = family->library().plan_memory(file, device);
  if (!plan) return plan.error();
  log::info("model",
            "memory of cuda:{}: context {:.1f} MiB + weights {:.1f} MiB + KV {:.1f} MiB ({} pages) "
            "+ workspace {:.1f} MiB + steps beside it {:.1f} MiB + recorded steps {:.1f} MiB = "
            "{:.1f} MiB; pinned host memory {:.1f} MiB",
            facts.ordinal, mib(plan->context_bytes), mib(plan->weight_bytes), mib(plan->kv_bytes),
            plan->kv_pages, mib(plan->workspace_bytes), mib(plan->beside_bytes),
            mib(plan->recording_bytes), mib(plan->total_bytes()), mib(plan->pinned_bytes));
  FORETOKEN_TRY(check_memory("device", plan->total_bytes(), chosen));
  FORETOKEN_TRY(check_pages(plan->kv_pages, plan->kv_page_bytes));
  auto weights = family->library().prepare_weights(file, device, progress);
  if (!weights) return weights.error();
  log::info("model", "decode steps of cuda:{} run on {}", facts.ordinal,
            family->library().decode_path(**weights));
  const auto make = [family, shared = std::move(weights).value(), device, chosen, metrics,
                     pages = plan->kv_pages,
                     print = file.fingerprint]() -> result<std::unique_ptr<model::ops>> {
    if (!family->lost(device.device)) return family->library().make_ops(shared, device);
    if (family->takes_over(device.device)) return take_over(chosen, pages, print, metrics);
    return error{errc::device, "the GPU is lost until the process is started anew"};
  };
  return prepared_device{gpu::describe(facts), fmt::format("cuda:{}", facts.ordinal),
                         plan->kv_pages, make,
                         [family, ordinal = facts.ordinal] { return family->gone(ordinal); }};
}

struct found_gpus {
  const gpu::library* library = nullptr;
  std::vector<gpu::device_facts> chosen;  // never empty
};

result<found_gpus> find_gpus(const gpu::device_choice& choice, const options& chosen) {
  const auto library = gpu::open_library(chosen.gpu_library);
  if (!library) return library.error();
  auto devices = gpu::usable_devices(**library);
  if (!devices) return devices.error();
  if (choice.ordinals.empty()) return found_gpus{*library, {devices->front()}};
  found_gpus out{*library, {}};
  for (const int ordinal : choice.ordinals) {
    const auto at = std::find_if(devices->begin(), devices->end(),
                                 [&](const auto& each) { return each.ordinal == ordinal; });
    if (at == devices->end()) {
      return error{errc::not_found,
                   fmt::format("no usable device cuda:{}; see foretoken devices", ordinal),
                   "model.device"};
    }
    out.chosen.push_back(*at);
  }
  return out;
}

// The weights go to one after the other.
result<prepared_devices> prepare_gpus(const found_gpus& found,
                                      const model::model_file& file,
                                      const options& chosen,
                                      const std::shared_ptr<counters>& metrics,
                                      const model::load_progress& progress) {
  if (const auto kv = gpu_kv_form(chosen.cpu.kv); !kv) return kv.error();
  const auto family =
      std::make_shared<gpu_family>(*found.library, found.chosen, chosen.cpu_fallback);
  prepared_devices out{{}, [family] { return family->all_lost(); }};
  for (const gpu::device_facts& each : found.chosen) {
    auto made = prepare_gpu(family, each, file, chosen, metrics, progress);
    if (!made) return std::move(made).error();
    out.all.push_back(*std::move(made));
  }
  return out;
}

// An unknown template in the file only stops chat requests, with the loader's own words.
status choose_chat(loaded_model& loaded, const model::model_file& file, const options& chosen) {
  if (chosen.chat_template != "auto") {
    auto family = tokenizer::chat_family_from_name(chosen.chat_template);
    if (!family) return family.error();
    loaded.chat = *family;
    return {};
  }
  auto family = tokenizer::recognise_chat_template(file.chat_template);
  if (family) {
    loaded.chat = *family;
  } else {
    loaded.chat_problem = family.error();
    log::warn("model", "chat is off: {}", to_string(family.error()));
  }
  return {};
}

void describe(loaded_model& loaded, const model::model_file& file) {
  loaded.info.name = file.shape.name;
  loaded.info.architecture = model::architecture_name(file.shape.arch);
  loaded.info.format = file.format;
  loaded.info.context = loaded.shape.context;
  loaded.info.vocabulary = file.shape.vocabulary;
  loaded.info.chat_family = tokenizer::chat_family_name(loaded.chat);
  loaded.info.created = static_cast<std::int64_t>(std::time(nullptr));
}

// The file without its matrices, when the CPU is to compute and their packed form is on disk.
std::shared_ptr<const model::model_file> recall_outline(const options& chosen) {
  using kind = gpu::device_choice::kind;
  const auto choice = gpu::parse_device_choice(chosen.device);
  if (!choice || choice->what == kind::cuda) return nullptr;
  if (choice->what == kind::automatic && find_gpus(*choice, chosen)) return nullptr;
  return cpu::recall_model(chosen.model, chosen.cpu);
}

}  // namespace

result<gpu::kv_form> gpu_kv_form(cpu::kv_type kv) {
  switch (kv) {
    case cpu::kv_type::automatic:
    case cpu::kv_type::f16: return gpu::kv_form::f16;
    case cpu::kv_type::int8: return gpu::kv_form::int8;
    default: return unsupported("cache.kv", "a GPU stores keys and values as f16 or int8");
  }
}

result<prepared_devices> choose_devices(const model::model_file& file,
                                        const options& chosen,
                                        const std::shared_ptr<counters>& metrics,
                                        const model::load_progress& progress) {
  using kind = gpu::device_choice::kind;
  const auto choice = gpu::parse_device_choice(chosen.device);
  if (!choice) return choice.error();
  if (choice->what == kind::cpu) return prepare_cpu(file, chosen, metrics, progress);
  const auto found = find_gpus(*choice, chosen);
  if (found) {
    auto made = prepare_gpus(*found, file, chosen, metrics, progress);
    if (made || choice->what == kind::cuda) return made;
    log::warn("model", "{} is not used: {}", gpu::describe(found->chosen.front()),
              to_string(made.error()));
  } else {
    if (choice->what == kind::cuda) return found.error();
    log::debug("model", "no GPU: {}", to_string(found.error()));
  }
  return prepare_cpu(file, chosen, metrics, progress);
}

namespace {

result<std::shared_ptr<const loaded_model>> prepare_from(const model::model_file& file,
                                                         const options& chosen,
                                                         const std::shared_ptr<counters>& metrics,
                                                         const model::load_progress& progress) {
  auto loaded = std::make_shared<loaded_model>();
  auto words = tokenizer::tokenizer::make(file.vocabulary);
  if (!words) return words.error();
  loaded->words = std::move(words).value();
  FORETOKEN_TRY(choose_chat(*loaded, file, chosen));
  auto devices = choose_devices(file, chosen, metrics, progress);
  if (!devices) return devices.error();
  loaded->shape = file.shape;
  if (chosen.context_max > 0)
    loaded->shape.context = std::min(loaded->shape.context, chosen.context_max);
  // A sequence must fit each pool by itself.
  int pages = devices->all.front().kv_pages;
  for (const auto& each : devices->all) pages = std::min(pages, each.kv_pages);
  const int pool_tokens = pages * page_tokens;
  if (pool_tokens < loaded->shape.context) {
    log::info("model", "context cut from {} to {} tokens: cache.kv_bytes holds no more",
              loaded->shape.context, pool_tokens);
    loaded->shape.context = pool_tokens;
  }
  loaded->fingerprint = file.fingerprint;
  describe(*loaded, file);

  loaded->devices = std::move(devices->all);
  loaded->device_lost = std::move(devices->lost);
  for (const auto& each : loaded->devices) {
    log::info("model", "{} ({}, {}) is ready on {}", loaded->info.name, loaded->info.architecture,
              loaded->info.format, each.name);
  }
  return std::shared_ptr<const loaded_model>(std::move(loaded));
}

}  // namespace

result<std::shared_ptr<const loaded_model>> prepare_model(const options& chosen,
                                                          const std::shared_ptr<counters>& metrics,
                                                          const load_progress& progress) {
  const auto stage = [&](const char* name) -> model::load_progress {
    if (!progress) return {};
    return
        [&progress, name](std::uint64_t done, std::uint64_t total) { progress(name, done, total); };
  };
  const auto outline = recall_outline(chosen);
  if (outline) {
    auto recalled = prepare_from(*outline, chosen, metrics, stage("preparing"));
    if (recalled || recalled.error().field != "packed weights") return recalled;
    log::info("model", "{}; packing again", to_string(recalled.error()));
  }
  auto read = model::model_file::load(chosen.model, stage("reading"));
  if (!read) return read.error();
  return prepare_from(**read, chosen, metrics, stage("preparing"));
}

}  // namespace foretoken::actors
