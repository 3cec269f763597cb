// SPDX-License-Identifier: Apache-2.0
// foretoken inspect: what is in a model file and the memory it will need, before any of it is
// taken.
#include <cstdio>
#include <map>
#include <memory>

#include <spdlog/fmt/fmt.h>

#include "config/load.hpp"
#include "cpu/backend.hpp"
#include "model/model_file.hpp"
#include "net/json.hpp"
#include "tokenizer/chat_template.hpp"
#include "tools/command.hpp"

namespace foretoken::tools {
namespace {

struct type_sum {
  int tensors = 0;
  std::uint64_t bytes = 0;
};

std::vector<const model::tensor*> all_tensors(const model::model_tensors& from) {
  std::vector<const model::tensor*> out{&from.embedding, &from.positions, &from.final_norm,
                                        &from.final_norm_bias};
  if (from.head.bytes.data() != from.embedding.bytes.data()) out.push_back(&from.head);
  for (const model::layer_tensors& layer : from.layers) {
    for (const model::tensor* each : {&layer.attention_norm,
                                      &layer.attention_norm_bias,
                                      &layer.q,
                                      &layer.k,
                                      &layer.v,
                                      &layer.q_bias,
                                      &layer.k_bias,
                                      &layer.v_bias,
                                      &layer.q_norm,
                                      &layer.k_norm,
                                      &layer.o,
                                      &layer.o_bias,
                                      &layer.attention_post_norm,
                                      &layer.ffn_norm,
                                      &layer.ffn_norm_bias,
                                      &layer.gate,
                                      &layer.up,
                                      &layer.up_bias,
                                      &layer.down,
                                      &layer.down_bias,
                                      &layer.ffn_post_norm}) {
      out.push_back(each);
    }
  }
  std::erase_if(out, [](const model::tensor* each) { return each->empty(); });
  return out;
}

std::map<std::string, type_sum> by_type(const model::model_tensors& from) {
  std::map<std::string, type_sum> out;
  for (const model::tensor* each : all_tensors(from)) {
    type_sum& sum = out[model::dtype_name(each->type)];
    ++sum.tensors;
    sum.bytes += each->bytes.size();
  }
  return out;
}

std::string chat_family(const model::model_file& file) {
  const auto family = tokenizer::recognise_chat_template(file.chat_template);
  return family ? tokenizer::chat_family_name(*family) : "unknown";
}

std::string mib(std::uint64_t bytes) {
  return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / 0x1p20);
}

std::string json_text(std::string_view text) {
  std::string out;
  net::write_json_string(out, text);
  return out;
}

void print_json(const model::model_file& file, const cpu::memory_plan& plan) {
  const model::hyperparameters& shape = file.shape;
  std::string types;
  for (const auto& [name, sum] : by_type(file.tensors)) {
    types += fmt::format("{}{}:{{\"tensors\":{},\"bytes\":{}}}", types.empty() ? "" : ",",
                         json_text(name), sum.tensors, sum.bytes);
  }
  fmt::print(
      "{{\"name\":{},\"format\":{},\"architecture\":{},\"file_bytes\":{},\"layers\":{},\"width\":{}"
      ","
      "\"heads\":{},\"kv_heads\":{},\"head_dim\":{},\"ffn\":{},\"vocabulary\":{},\"context\":{},"
      "\"tied_head\":{},\"chat_template\":{},\"tensors\":{{{}}},\"memory\":{{\"weight_bytes\":{},"
      "\"kv_bytes\":{},\"workspace_bytes\":{},\"kv_pages\":{},\"kv_page_bytes\":{},\"total_bytes\":"
      "{}}}}}\n",
      json_text(shape.name), json_text(file.format),
      json_text(model::architecture_name(shape.arch)), file.file_bytes, shape.layers, shape.width,
      shape.heads, shape.kv_heads, shape.head_dim, shape.ffn, shape.vocabulary, shape.context,
      shape.tied_head, json_text(chat_family(file)), types, plan.weight_bytes, plan.kv_bytes,
      plan.workspace_bytes, plan.kv_pages, plan.kv_page_bytes, plan.total_bytes());
}

void print_text(const model::model_file& file, const cpu::memory_plan& plan) {
  const model::hyperparameters& shape = file.shape;
  const std::string name = json_text(shape.name);
  fmt::print("name           {}\n", name.substr(1, name.size() - 2));
  fmt::print("format         {}, {}\n", file.format, mib(file.file_bytes));
  fmt::print("architecture   {}\n", model::architecture_name(shape.arch));
  fmt::print("layers         {}\n", shape.layers);
  fmt::print("width          {}, feed-forward {}\n", shape.width, shape.ffn);
  fmt::print("heads          {} of {}, {} for keys and values\n", shape.heads, shape.head_dim,
             shape.kv_heads);
  fmt::print("vocabulary     {}{}\n", shape.vocabulary,
             shape.tied_head ? ", head tied to embedding" : "");
  fmt::print("context        {}\n", shape.context);
  fmt::print("chat template  {}\n", chat_family(file));
  for (const auto& [type, sum] : by_type(file.tensors)) {
    fmt::print("tensors {:6} {:4}, {}\n", type, sum.tensors, mib(sum.bytes));
  }
  fmt::print(
      "memory\n  weights      {}\n  keys, values {} at most ({} pages of {} tokens, {} each)\n",
      mib(plan.weight_bytes), mib(plan.kv_bytes), plan.kv_pages, page_tokens,
      config::format_bytes(static_cast<std::int64_t>(plan.kv_page_bytes)));
  fmt::print("  workspace    {}\n  total        {}\n", mib(plan.workspace_bytes),
             mib(plan.total_bytes()));
}

int run_inspect(const settings_flags& flags, const std::string& path, bool json) {
  auto settings = flags.load();
  if (!settings) return report_usage(settings.error());
  if (!path.empty()) settings->engine.model = path;
  if (settings->engine.model.empty()) return report_usage(invalid("--model", "is needed"));
  progress_bar bar;
  const auto file = model::model_file::load(
      settings->engine.model, [&](auto done, auto total) { bar.show("reading", done, total); });
  bar.finish();
  if (!file) return report_usage(file.error());
  settings->engine.cpu.rows_max = settings->engine.scheduler.step_tokens_max;  // as in an engine
  const auto plan = cpu::plan_memory(**file, settings->engine.cpu);
  if (!plan) return report_usage(plan.error());
  if (json) {
    print_json(**file, *plan);
  } else {
    print_text(**file, *plan);
  }
  return std::fflush(stdout) == 0 ? exit_success : exit_failure;
}

}  // namespace

void add_inspect(CLI::App& app, action& chosen) {
  struct inspect_flags {
    settings_flags settings;
    std::string path;
    bool json = false;
  };
  auto flags = std::make_shared<inspect_flags>();
  CLI::App* command =
      app.add_subcommand("inspect", "Show what is in a model and the memory it needs");
  flags->settings.add(*command);
  command->add_option("path", flags->path, "The model, instead of --model");
  command->add_flag("--json", flags->json, "One JSON object");
  command->callback([&chosen, flags] {
    chosen = [flags] { return run_inspect(flags->settings, flags->path, flags->json); };
  });
}

}  // namespace foretoken::tools
