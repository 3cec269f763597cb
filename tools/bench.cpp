// SPDX-License-Identifier: Apache-2.0
// foretoken bench: tokens per second of the forward pass on this machine, or (--server) a load
// test.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>

#include <spdlog/fmt/fmt.h>

#include "actors/devices.hpp"
#include "cpu/backend.hpp"
#include "model/forward.hpp"
#include "tools/command.hpp"
#include "tools/load.hpp"

namespace foretoken::tools {
namespace {

using clock = std::chrono::steady_clock;

struct bench_flags {
  settings_flags settings;
  load_options load;
  std::vector<int> prefill, decode;
  int context = 128;
  double seconds = 1;  // measured time of each figure, at least
  bool json = false;
};

struct figure {
  int size = 0;  // tokens of a prefill, sequences of a decode batch
  double tokens_per_second = 0;
};

int pages_for(int tokens) {
  return (tokens + page_tokens - 1) / page_tokens;
}

// One sequence's slice with pages of its own. Token values do not change the work; they only vary.
model::slice make_slice(int sequence, int position, int count, int pages_each, int vocabulary) {
  model::slice made;
  made.sequence = static_cast<sequence_id>(sequence);
  made.position = position;
  for (int i = 0; i < count; ++i) {
    made.tokens.push_back((sequence * 131 + (position + i) * 7919 + 17) % vocabulary);
  }
  for (int i = 0; i < pages_for(position + count); ++i) {
    made.pages.push_back(static_cast<page_id>(sequence * pages_each + i));
  }
  static const auto greedy = [] {
    model::sampling_parameters chosen;
    chosen.temperature = 0;
    return std::make_shared<const model::sampling_parameters>(chosen);
  }();
  made.sampling = greedy;
  return made;
}

// Computes `tokens` positions of one sequence in chunks the device takes.
status prefill(model::ops& device, int sequence, int tokens, int pages_each) {
  for (int done = 0; done < tokens;) {
    const int count = std::min(tokens - done, device.rows_max());
    model::micro_batch batch;
    batch.slices.push_back(
        make_slice(sequence, done, count, pages_each, device.shape().vocabulary));
    done += count;
    batch.slices.front().sample_last = done == tokens;
    if (auto step = model::forward(device, batch); !step) return std::move(step).error();
  }
  return {};
}

// Repeats `work` (which handles `tokens` tokens) for at least `seconds`; the median repetition
// counts.
template <class Work>
result<double> measure(int tokens, double seconds, Work&& work) {
  FORETOKEN_TRY(work());  // warm: touches the pages, fills the caches
  std::vector<double> times;
  const auto begin = clock::now();
  while (times.size() < 5 ||
         std::chrono::duration<double>(clock::now() - begin).count() < seconds) {
    const auto before = clock::now();
    FORETOKEN_TRY(work());
    times.push_back(std::chrono::duration<double>(clock::now() - before).count());
  }
  std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2),
                   times.end());
  return tokens / times[times.size() / 2];
}

result<double> decode_rate(model::ops& device, int batch_size, const bench_flags& flags) {
  const int pages_each = pages_for(flags.context + 1);
  for (int i = 0; i < batch_size; ++i) FORETOKEN_TRY(prefill(device, i, flags.context, pages_each));
  model::micro_batch batch;
  for (int i = 0; i < batch_size; ++i) {  // the same position again and again: exactly this context
    batch.slices.push_back(make_slice(i, flags.context, 1, pages_each, device.shape().vocabulary));
    batch.slices.back().sample_last = true;
  }
  return measure(batch_size, flags.seconds, [&]() -> status {
    auto step = model::forward(device, batch);
    if (!step) return std::move(step).error();
    for (std::size_t i = 0; i < batch.slices.size(); ++i) {
      const token next = step->slices[i].next.id;
      if (next >= 0) batch.slices[i].tokens.front() = next;
    }
    return {};
  });
}

void print(const bench_flags& flags,
           const std::vector<figure>& prefills,
           const std::vector<figure>& decodes) {
  if (!flags.json) {
    for (const figure& each : prefills) {
      fmt::print("prefill {:5} tokens               {:10.1f} tokens/s\n", each.size,
                 each.tokens_per_second);
    }
    for (const figure& each : decodes) {
      fmt::print("decode  {:5} streams, context {:5} {:8.1f} tokens/s\n", each.size, flags.context,
                 each.tokens_per_second);
    }
    return;
  }
  std::string first, second;
  for (const figure& each : prefills) {
    first += fmt::format("{}{{\"tokens\":{},\"tokens_per_second\":{:.3f}}}",
                         first.empty() ? "" : ",", each.size, each.tokens_per_second);
  }
  for (const figure& each : decodes) {
    second +=
        fmt::format("{}{{\"batch\":{},\"context\":{},\"tokens_per_second\":{:.3f}}}",
                    second.empty() ? "" : ",", each.size, flags.context, each.tokens_per_second);
  }
  fmt::print("{{\"prefill\":[{}],\"decode\":[{}]}}\n", first, second);
}

// It keeps the counters that the device it makes writes to.
result<actors::prepared_device> prepare_device(config::settings all, const bench_flags& flags) {
  progress_bar bar;
  const auto file = model::model_file::load(
      all.engine.model, [&](auto done, auto total) { bar.show("reading", done, total); });
  if (!file) return file.error();
  int pages = 1;
  int& rows = all.engine.scheduler.step_tokens_max;
  for (const int each : flags.prefill) pages = std::max(pages, pages_for(each));
  for (const int each : flags.decode) {
    pages = std::max(pages, each * pages_for(flags.context + 1));
    rows = std::max(rows, each);
  }
  const int longest =
      std::max(flags.decode.empty() ? 0 : flags.context + 1,
               flags.prefill.empty() ? 0 : *std::ranges::max_element(flags.prefill));
  int context = (*file)->shape.context;
  if (all.engine.context_max > 0) context = std::min(context, all.engine.context_max);
  if (longest > context) return invalid("--context", fmt::format("the context is {}", context));
  // Pages of either device: heads are padded differently, by less than a quarter.
  const auto plan = cpu::plan_memory(**file, all.engine.cpu);
  if (!plan) return plan.error();
  all.engine.cpu.kv_bytes = static_cast<std::uint64_t>(pages + pages / 4 + 1) * plan->kv_page_bytes;
  all.engine.memory_bytes_max = 0;
  auto prepared =
      actors::choose_devices(**file, all.engine, std::make_shared<counters>(),
                             [&](auto done, auto total) { bar.show("packing", done, total); });
  if (!prepared) return std::move(prepared).error();
  return std::move(prepared->all.front());
}

int run_device(const bench_flags& flags) {
  const auto settings = flags.settings.load();
  if (!settings) return report_usage(settings.error());
  if (settings->engine.model.empty()) return report_usage(invalid("--model", "is needed"));
  const auto prepared = prepare_device(*settings, flags);
  if (!prepared) return report_usage(prepared.error());
  auto device = prepared->make();
  if (!device) return report_usage(device.error());
  progress_bar bar;
  const std::uint64_t total = flags.prefill.size() + flags.decode.size();
  std::vector<figure> prefills, decodes;
  for (const int tokens : flags.prefill) {
    bar.show("measuring", prefills.size(), total);
    const auto rate = measure(tokens, flags.seconds,
                              [&] { return prefill(**device, 0, tokens, pages_for(tokens)); });
    if (!rate) return report(rate.error());
    prefills.push_back({tokens, *rate});
  }
  for (const int batch : flags.decode) {
    bar.show("measuring", prefills.size() + decodes.size(), total);
    const auto rate = decode_rate(**device, batch, flags);
    if (!rate) return report(rate.error());
    decodes.push_back({batch, *rate});
  }
  bar.finish();
  print(flags, prefills, decodes);
  return std::fflush(stdout) == 0 ? exit_success : exit_failure;
}

}  // namespace

void add_bench(CLI::App& app, action& chosen) {
  auto flags = std::make_shared<bench_flags>();
  CLI::App* command =
      app.add_subcommand("bench", "Measure the forward pass, or load a running server");
  flags->settings.add(*command);
  command->add_option("--prefill", flags->prefill, "Prompt lengths, for example 16,128")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("--decode", flags->decode, "Streams in a step, for example 1,8,32")
      ->delimiter(',')
      ->check(CLI::Range(1, 4096));
  command->add_option("--context", flags->context, "Tokens before the measured one")
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("--seconds", flags->seconds, "Measured time of each figure, or of the load")
      ->check(CLI::Range(0.01, 86400.0));
  command->add_flag("--json", flags->json, "One JSON object");
  add_load_flags(*command, flags->load);
  command->callback([&chosen, flags] {
    chosen = [flags] {
      if (!flags->load.server.empty()) {
        flags->load.seconds = flags->seconds;
        flags->load.json = flags->json;
        return run_load(flags->load);
      }
      if (flags->prefill.empty() && flags->decode.empty()) {
        flags->prefill = {16, 128};
        flags->decode = {1, 8, 32};
      }
      return run_device(*flags);
    };
  });
}

}  // namespace foretoken::tools
