// SPDX-License-Identifier: Apache-2.0
#include "actors/devices.hpp"

#include <algorithm>
#include <ctime>

#include "base/log.hpp"
#include "cpu/backend.hpp"
#include "model/model_file.hpp"

namespace foretoken::actors {
namespace {

double mib(std::uint64_t bytes) {
  return static_cast<double>(bytes) / (1024.0 * 1024.0);
}

status check_memory(const cpu::memory_plan& plan, const options& chosen) {
  log::info("model",
            "memory: weights {:.1f} MiB + KV up to {:.1f} MiB ({} pages) + workspace {:.1f} MiB = "
            "{:.1f} MiB",
            mib(plan.weight_bytes), mib(plan.kv_bytes), plan.kv_pages, mib(plan.workspace_bytes),
            mib(plan.total_bytes()));
  if (chosen.memory_bytes_max != 0 && plan.total_bytes() > chosen.memory_bytes_max) {
    return error{errc::exhausted,
                 fmt::format("the model needs {:.1f} MiB and the limit is {:.1f} MiB",
                             mib(plan.total_bytes()), mib(chosen.memory_bytes_max)),
                 "model.memory_bytes_max"};
  }
  if (plan.kv_pages < 2) {
    return invalid("cache.kv_bytes",
                   fmt::format("holds {} pages of {} bytes; at least 2 are needed", plan.kv_pages,
                               plan.kv_page_bytes));
  }
  return {};
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

}  // namespace

result<std::shared_ptr<const loaded_model>> prepare_model(const options& chosen,
                                                          std::shared_ptr<counters> metrics,
                                                          const load_progress& progress) {
  const auto stage = [&](const char* name) -> model::load_progress {
    if (!progress) return {};
    return
        [&progress, name](std::uint64_t done, std::uint64_t total) { progress(name, done, total); };
  };
  auto read = model::model_file::load(chosen.model, stage("reading"));
  if (!read) return read.error();
  const auto& file = **read;
  const auto plan = cpu::plan_memory(file, chosen.cpu);
  FORETOKEN_TRY(check_memory(plan, chosen));

  auto loaded = std::make_shared<loaded_model>();
  auto words = tokenizer::tokenizer::make(file.vocabulary);
  if (!words) return words.error();
  loaded->words = std::move(words).value();
  FORETOKEN_TRY(choose_chat(*loaded, file, chosen));
  loaded->shape = file.shape;
  if (chosen.context_max > 0)
    loaded->shape.context = std::min(loaded->shape.context, chosen.context_max);
  // A sequence must fit the pool by itself.
  const int pool_tokens = plan.kv_pages * page_tokens;
  if (pool_tokens < loaded->shape.context) {
    log::info("model", "context cut from {} to {} tokens: cache.kv_bytes holds no more",
              loaded->shape.context, pool_tokens);
    loaded->shape.context = pool_tokens;
  }
  loaded->fingerprint = file.fingerprint;
  loaded->kv_pages = plan.kv_pages;
  describe(*loaded, file);

  auto weights = cpu::prepare_weights(file, chosen.cpu, stage("preparing"));
  if (!weights) return weights.error();
  auto device = chosen.cpu;
  device.kv_saturated = &metrics->kv_saturated;
  loaded->make_device = [shared = std::move(weights).value(), device, kept = std::move(metrics)] {
    return cpu::make_ops(shared, device);
  };
  log::info("model", "{} ({}, {}) is ready on {}", loaded->info.name, loaded->info.architecture,
            loaded->info.format, cpu::best_isa_name());
  return std::shared_ptr<const loaded_model>(std::move(loaded));
}

}  // namespace foretoken::actors
