// SPDX-License-Identifier: Apache-2.0
// A device against the references of tests/data/reference, through nothing but the ops contract:
// top-1, KL and losses of the real model, every logit of the tiny ones, that a row has the same
// bits alone, in a batch of 64 and in chunks, and that the tokens drawn are those of
// model::sample(). Prints one JSON object; exit 1 when a bar is missed.
//
//   logits_check DEVICE DATA tiny | logits_check DEVICE DATA model FILE
//
// FORETOKEN_CHECK_WEIGHTS=file: weights as in the file; FORETOKEN_CHECK_KV=int8: keys and values as
// codes, with bars of their own.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <span>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "actors/devices.hpp"
#include "base/log.hpp"
#include "model/forward.hpp"
#include "tests/gpu/drawn_rows.hpp"
#include "tests/reference/worst.hpp"

namespace {

using namespace foretoken;
using nlohmann::json;
using test::same_bits;

constexpr int alternatives = 64;  // the reference lists 32 tokens a position

bool codes_kept() {
  const char* kv = std::getenv("FORETOKEN_CHECK_KV");
  return kv != nullptr && std::string(kv) == "int8";
}

json read_json(const std::string& name) {
  std::ifstream in(name);
  return json::parse(in);
}

std::vector<json> read_lines(const std::string& name) {
  std::ifstream in(name);
  std::vector<json> out;
  for (std::string line; std::getline(in, line);) out.push_back(json::parse(line));
  return out;
}

class reader {
 public:
  reader(model::ops& ops, int top) : ops_(ops) {
    auto how = std::make_shared<model::sampling_parameters>();
    how->logprobs = top;
    how_ = how;
  }
  // Scores of every position: what is said of the next token of the text (of token 0 at its end).
  std::vector<model::sampled> read(const std::vector<token>& text, int chunk, int first_page = 0) {
    std::vector<model::sampled> out;
    for (std::size_t at = 0; at < text.size(); at += static_cast<std::size_t>(chunk)) {
      model::micro_batch batch;
      batch.slices.push_back(slice(text, at, static_cast<std::size_t>(chunk), first_page));
      const model::step_result done = run(batch);
      const auto& scores = done.slices.at(0).scores;
      out.insert(out.end(), scores.begin(), scores.end());
    }
    return out;
  }
  model::slice slice(const std::vector<token>& text,
                     std::size_t at,
                     std::size_t count,
                     int first_page) const {
    const std::size_t end = std::min(text.size(), at + count);
    model::slice one;
    one.position = static_cast<int>(at);
    one.tokens.assign(text.begin() + static_cast<std::ptrdiff_t>(at),
                      text.begin() + static_cast<std::ptrdiff_t>(end));
    for (std::size_t i = 0; i < (end + 15) / 16; ++i) {
      one.pages.push_back(page_id{first_page + static_cast<int>(i)});
    }
    one.score_all = true;
    one.score_next = end < text.size() ? text[end] : 0;
    one.sampling = how_;
    return one;
  }
  model::step_result run(const model::micro_batch& batch) {
    auto out = model::forward(ops_, batch);
    if (out) return *std::move(out);
    std::fprintf(stderr, "step: %s\n", to_string(out.error()).c_str());
    std::exit(1);
  }

 private:
  model::ops& ops_;
  std::shared_ptr<const model::sampling_parameters> how_;
};

// Decode rows of 64 sequences at once, and prefill in chunks of 1, 7 and all, against each other.
json check_bits(reader& read, const std::vector<token>& text) {
  const auto whole = read.read(text, 512);
  std::size_t chunked = 0, batched = 0;
  for (const int chunk : {1, 7, 64}) {
    const auto parts = read.read(text, chunk, 64);
    for (std::size_t i = 0; i < text.size(); ++i) chunked += !same_bits(parts[i], whole[i]);
  }
  const int pages_each = static_cast<int>((text.size() + 15) / 16);
  model::micro_batch batch;
  std::vector<std::size_t> at;
  for (int s = 0; s < 64; ++s) {
    const std::size_t before = text.size() - 1 - static_cast<std::size_t>(s) % (text.size() / 2);
    model::micro_batch prefill;
    prefill.slices.push_back(read.slice(text, 0, before, s * pages_each));
    read.run(prefill);
    batch.slices.push_back(read.slice(text, before, 1, s * pages_each));
    at.push_back(before);
  }
  const auto together = read.run(batch);
  for (std::size_t s = 0; s < 64; ++s) {
    batched += !same_bits(together.slices[s].scores[0], whole[at[s]]);
  }
  return {{"rows", text.size()}, {"chunked_differ", chunked}, {"batch_of_64_differ", batched}};
}

// KL of the reference's listed tokens and one bucket for the rest.
double divergence(const json& position, const model::sampled& got) {
  std::map<token, double> ours;
  double least = 0;
  for (const auto& each : got.top) {
    ours[each.id] = static_cast<double>(each.logprob);
    least = std::min(least, static_cast<double>(each.logprob));
  }
  const double reference_sum = position["logsumexp"].get<double>();
  double kl = 0, rest = 1, our_rest = 1;
  for (std::size_t i = 0; i < position["ids"].size(); ++i) {
    const double expected = position["logits"][i].get<double>() - reference_sum;
    const auto found = ours.find(position["ids"][i].get<token>());
    const double mine = found == ours.end() ? least : found->second;
    kl += std::exp(expected) * (expected - mine);
    rest -= std::exp(expected);
    our_rest -= std::exp(mine);
  }
  if (rest > 1e-9 && our_rest > 1e-9) kl += rest * std::log(rest / our_rest);
  return kl;
}

json first_text(const std::string& data) {
  const json all = read_json(data + "/perplexity.json")["texts"];
  return read_json(data + "/top1/" + all.begin().key() + ".json");
}

json check_model(reader& read, const std::string& data) {
  std::size_t all = 0, agree = 0, clear_misses = 0;
  double worst_nll = 0;
  const json perplexity = read_json(data + "/perplexity.json")["texts"];
  for (const auto& [name, figures] : perplexity.items()) {
    const json top = read_json(data + "/top1/" + name + ".json");
    const auto ids = top["ids"].get<std::vector<token>>();
    const auto best = top["top1"].get<std::vector<token>>();
    const auto margin = top["margin"].get<std::vector<double>>();
    const auto got = read.read(ids, 512);
    double nll = 0;
    std::size_t same = 0;
    for (std::size_t i = 0; i < ids.size(); ++i) {
      const bool equal = !got[i].top.empty() && got[i].top.front().id == best[i];
      same += equal;
      if (!equal && margin[i] > 0.1) ++clear_misses;
      if (i + 1 < ids.size()) nll -= static_cast<double>(got[i].logprob);
    }
    nll /= static_cast<double>(ids.size() - 1);
    worst_nll = reference::worse(worst_nll, std::abs(nll - figures["mean_nll"].get<double>()));
    if (name == "multilingual") continue;
    all += ids.size();
    agree += same;
  }
  double kl = 0;
  std::size_t positions = 0;
  for (const json& prompt : read_lines(data + "/logits.jsonl")) {
    const auto got = read.read(prompt["ids"].get<std::vector<token>>(), 512);
    for (const json& position : prompt["positions"]) {
      kl += divergence(position, got.at(position["position"].get<std::size_t>()));
      ++positions;
    }
  }
  const double share =
      static_cast<double>(agree) / static_cast<double>(std::max<std::size_t>(all, 1));
  const double mean = kl / static_cast<double>(std::max<std::size_t>(positions, 1));
  const auto text = first_text(data)["ids"].get<std::vector<token>>();
  json out{{"top1_share", share},
           {"positions", all},
           {"clear_misses", clear_misses},
           {"mean_kl", mean},
           {"worst_nll_difference", worst_nll}};
  out["bits"] = check_bits(
      read, {text.begin(), text.begin() + std::min<std::ptrdiff_t>(200, std::ssize(text))});
  out["holds"] = share >= (codes_kept() ? 0.98 : 0.997) && mean <= (codes_kept() ? 2e-3 : 1e-5) &&
                 out["bits"]["chunked_differ"] == 0 && out["bits"]["batch_of_64_differ"] == 0;
  return out;
}

// The largest difference of log-probabilities, as a share of the range of the position's logits.
json check_tiny(reader& read, const json& expected) {
  double worst = 0;
  for (const json& input : expected["inputs"]) {
    const auto got = read.read(input["ids"].get<std::vector<token>>(), 128);
    for (const json& position : input["positions"]) {
      const auto logits = position["logits"].get<std::vector<double>>();
      double sum = 0, largest = 0;
      for (const double each : logits) {
        sum += std::exp(each);
        largest = std::max(largest, std::abs(each));
      }
      for (const auto& each : got.at(position["position"].get<std::size_t>()).top) {
        const double wanted = logits[static_cast<std::size_t>(each.id)] - std::log(sum);
        worst =
            reference::worse(worst, std::abs(static_cast<double>(each.logprob) - wanted) / largest);
      }
    }
  }
  return {{"worst_share", worst}, {"holds", worst < (codes_kept() ? 6e-2 : 5e-3)}};
}

result<actors::prepared_device> prepare(const model::model_file& file,
                                        const char* device,
                                        const std::filesystem::path& path) {
  actors::options chosen;
  chosen.device = device;
  chosen.model = path;
  chosen.scheduler.step_tokens_max = chosen.cpu.rows_max = 512;
  chosen.cpu.kv_bytes = 512u << 20;
  chosen.gpu.context_max = 8192;
  if (codes_kept()) chosen.cpu.kv = cpu::kv_type::int8;
  const char* form = std::getenv("FORETOKEN_CHECK_WEIGHTS");
  if (form != nullptr && std::string(form) == "file") chosen.gpu.weights = gpu::weight_mode::file;
  auto made = actors::choose_devices(file, chosen, std::make_shared<counters>(), {});
  if (!made) return std::move(made).error();
  return std::move(made->all.front());
}

json check_file(const char* device,
                const std::string& data,
                const std::filesystem::path& path,
                bool tiny) {
  const auto file = model::model_file::load(path);
  if (!file) return {{"holds", false}, {"error", to_string(file.error())}};
  auto prepared = prepare(**file, device, path);
  if (!prepared) return {{"holds", false}, {"error", to_string(prepared.error())}};
  auto ops = prepared->make();
  if (!ops) return {{"holds", false}, {"error", to_string(ops.error())}};
  reader read(**ops, tiny ? (*file)->shape.vocabulary : alternatives);
  json out = tiny ? check_tiny(read, read_json(path / "expected.json")) : check_model(read, data);
  const json text = tiny ? read_json(path / "expected.json")["inputs"].back() : first_text(data);
  out["draws"] = test::check_draws(**ops, text["ids"].get<std::vector<token>>());
  out["holds"] = out["holds"].get<bool>() && out["draws"]["holds"].get<bool>();
  out["device"] = prepared->name;
  return out;
}

}  // namespace

int main(int count, char** words) {
  if (count < 4) return 2;
  const std::string data = words[2];
  json out;
  if (std::string(words[3]) == "tiny") {
    for (const char* name : {"llama", "mistral", "qwen2", "qwen3", "gemma3", "gpt2"}) {
      out[name] = check_file(words[1], data, data + "/architectures/" + name, true);
    }
  } else if (count > 4) {
    out["model"] = check_file(words[1], data, words[4], false);
  }
  std::puts(out.dump(1).c_str());
  return std::ranges::all_of(out, [](const json& each) { return each.value("holds", false); }) ? 0
                                                                                               : 1;
}
