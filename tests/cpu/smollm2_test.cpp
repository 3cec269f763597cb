// SPDX-License-Identifier: Apache-2.0
// The real model against float32 of the same file (tests/data/reference/README.md). Exits 77 when
// the model is not on this machine. FORETOKEN_MODEL names another form of it; with
// FORETOKEN_FLOAT_WEIGHTS=w8 its float weights are packed as 8 bits.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "cpu/backend.hpp"
#include "cpu/step.hpp"
#include "model/forward.hpp"
#include "tests/reference/worst.hpp"

namespace {

using namespace foretoken;
using nlohmann::json;
using logits_row = std::vector<float>;

const std::string data = FORETOKEN_TEST_DATA "/reference/";
int failures = 0;

void expect(bool holds, const char* what) {
  std::printf("%s: %s\n", holds ? "ok  " : "FAIL", what);
  if (!holds) ++failures;
}

std::string model_path() {
  if (const char* given = std::getenv("FORETOKEN_MODEL")) return given;
  const char* home = std::getenv("HOME");
  return std::string(home ? home : "") + "/.cache/foretoken/SmolLM2-135M-Instruct.Q4_1.gguf";
}

json read_json(const std::string& name) {
  std::ifstream in(data + name);
  return json::parse(in);
}

std::vector<json> read_lines(const std::string& name) {
  std::ifstream in(data + name);
  std::vector<json> out;
  for (std::string line; std::getline(in, line);) out.push_back(json::parse(line));
  return out;
}

token best_of(std::span<const float> logits) {
  return static_cast<token>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

double log_sum_exp(std::span<const float> logits) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float value : logits) sum += std::exp(static_cast<double>(value) - top);
  return top + std::log(sum);
}

// Calls see(position, logits) for every position of a text.
class reader {
 public:
  using observer = std::function<void(std::size_t, std::span<const float>)>;
  explicit reader(model::ops& ops) : ops_(ops) {
    probe();
    for (int i = 0; i < 160; ++i) pages_.push_back(page_id{i});
  }
  // The greedy token behind a position of a text that was read: a row alone, without a probe.
  token choice(const std::vector<token>& text, std::size_t at) {
    static_cast<cpu::step&>(ops_).probe_logits(nullptr, nullptr);
    model::slice one;
    one.position = static_cast<int>(at);
    one.tokens = {text[at]};
    one.pages = pages_;
    one.sample_last = true;
    auto greedy = std::make_shared<model::sampling_parameters>();
    greedy->temperature = 0;
    one.sampling = greedy;
    model::micro_batch batch;
    batch.slices.push_back(std::move(one));
    const auto out = model::forward(ops_, batch);
    probe();
    return out ? out->slices[0].next.id : -1;
  }
  bool read(const std::vector<token>& text, std::size_t from, observer see) {
    see_ = std::move(see);
    for (first_ = from; first_ < text.size();) {
      const std::size_t end =
          std::min(text.size(), first_ + static_cast<std::size_t>(ops_.rows_max()));
      model::slice one;
      one.position = static_cast<int>(first_);
      one.tokens.assign(text.begin() + static_cast<std::ptrdiff_t>(first_),
                        text.begin() + static_cast<std::ptrdiff_t>(end));
      one.pages = pages_;
      one.score_all = true;
      one.score_next = 0;
      model::micro_batch batch;
      batch.slices.push_back(std::move(one));
      auto out = model::forward(ops_, batch);
      if (!out) {
        std::printf("FAIL: %s\n", to_string(out.error()).c_str());
        ++failures;
        return false;
      }
      first_ = end;
    }
    return true;
  }

 private:
  void probe() {
    static_cast<cpu::step&>(ops_).probe_logits(
        [](void* self, int row, std::span<const float> logits) {
          auto& me = *static_cast<reader*>(self);
          me.see_(me.first_ + static_cast<std::size_t>(row), logits);
        },
        this);
  }
  model::ops& ops_;
  observer see_;
  std::size_t first_ = 0;
  std::vector<page_id> pages_;
};

// What a precision must keep of float32's answers.
struct bounds {
  double top1;              // share of positions with the same best token (multilingual apart)
  double clear_margin;      // no other token where the reference's margin is above this
  double kl;                // mean over the listed positions
  double perplexity_ratio;  // of all texts together
  double nll;               // largest difference of a text's mean loss
  double greedy_margin;     // free decoding agrees up to the first margin below this
};
constexpr bounds exact_bounds{0.998, 0.1, 1e-5, 1.0005, 1e-3, 0.05};
constexpr bounds bf16_bounds{0.99, 0.2, 1e-4, 1.001, 2e-3, 0.2};
constexpr bounds int8_bounds{0.975, 1.0, 1.5e-3, 1.004, 1e-2, 0.5};
constexpr bounds w8_bounds{0.975, 1.0, 2e-3, 1.005, 1e-2, 0.5};
constexpr bounds w8_fast_bounds{0.96, 1.5, 5e-3, 1.006, 1.5e-2, 1.0};
constexpr bounds fast_bounds{0.965, 1.5, 3e-3, 1.004, 1e-2, 1.0};

void check_texts(reader& read, const bounds& wanted) {
  const json perplexity = read_json("perplexity.json")["texts"];
  std::size_t all = 0, agree = 0, clear_misses = 0;
  double worst_nll = 0, excess_loss = 0, positions = 0;
  for (const auto& [name, figures] : perplexity.items()) {
    const json top = read_json("top1/" + name + ".json");
    const auto ids = top["ids"].get<std::vector<token>>();
    const auto best = top["top1"].get<std::vector<token>>();
    const auto margin = top["margin"].get<std::vector<double>>();
    std::size_t same = 0;
    double nll = 0;
    read.read(ids, 0, [&](std::size_t at, std::span<const float> logits) {
      const bool equal = best_of(logits) == best[at];
      same += equal;
      if (!equal && margin[at] > wanted.clear_margin) ++clear_misses;
      if (at + 1 < ids.size()) {
        nll += log_sum_exp(logits) -
               static_cast<double>(logits[static_cast<std::size_t>(ids[at + 1])]);
      }
    });
    const auto scored = static_cast<double>(ids.size() - 1);
    excess_loss += nll - scored * figures["mean_nll"].get<double>();
    positions += scored;
    nll /= scored;
    worst_nll = reference::worse(worst_nll, std::abs(nll - figures["mean_nll"].get<double>()));
    std::printf("%-14s top-1 %zu/%zu  nll %.5f (reference %.5f)\n", name.c_str(), same, ids.size(),
                nll, figures["mean_nll"].get<double>());
    if (name == "multilingual") continue;
    all += ids.size();
    agree += same;
  }
  const double share =
      static_cast<double>(agree) / static_cast<double>(std::max<std::size_t>(all, 1));
  const double ratio = std::exp(excess_loss / positions);
  std::printf(
      "top-1 agreement %zu of %zu, %.3f %%; clear misses %zu; perplexity ratio %.5f; largest nll "
      "difference %.2g\n",
      agree, all, 100 * share, clear_misses, ratio, worst_nll);
  expect(share >= wanted.top1, "top-1 agreement (multilingual apart)");
  expect(clear_misses == 0, "the same token where the reference's margin is large");
  expect(ratio <= wanted.perplexity_ratio, "perplexity ratio");
  expect(worst_nll < wanted.nll, "mean loss of every text");
}

// KL of the reference's 32 listed tokens and one bucket for the rest.
double divergence(const json& position, std::span<const float> logits) {
  const double reference_sum = position["logsumexp"].get<double>();
  const double sum = log_sum_exp(logits);
  double kl = 0, rest = 1, our_rest = 1;
  for (std::size_t i = 0; i < position["ids"].size(); ++i) {
    const double expected = position["logits"][i].get<double>() - reference_sum;
    const double ours = static_cast<double>(logits[position["ids"][i].get<std::size_t>()]) - sum;
    kl += std::exp(expected) * (expected - ours);
    rest -= std::exp(expected);
    our_rest -= std::exp(ours);
  }
  if (rest > 1e-9 && our_rest > 1e-9) kl += rest * std::log(rest / our_rest);
  return kl;
}

void check_logits(reader& read, const bounds& wanted) {
  double total = 0;
  std::size_t positions = 0;
  for (const json& prompt : read_lines("logits.jsonl")) {
    read.read(prompt["ids"].get<std::vector<token>>(), 0,
              [&](std::size_t at, std::span<const float> logits) {
                for (const json& position : prompt["positions"]) {
                  if (position["position"].get<std::size_t>() != at) continue;
                  total += divergence(position, logits);
                  ++positions;
                }
              });
  }
  std::printf("mean KL %.3g over %zu positions\n", total / static_cast<double>(positions),
              positions);
  expect(positions == 295, "all 295 listed positions seen");
  expect(total / static_cast<double>(positions) <= wanted.kl, "mean KL");
}

// Free decoding, up to the first near tie of the reference.
void check_greedy(reader& read, const bounds& wanted) {
  const auto prompts = read_lines("logits.jsonl");
  const auto greedy = read_lines("greedy.jsonl");
  std::size_t steps = 0, wrong = 0;
  for (std::size_t p = 0; p < prompts.size(); ++p) {
    auto text = prompts[p]["ids"].get<std::vector<token>>();
    const auto expected = greedy[p]["tokens"].get<std::vector<token>>();
    const auto margins = greedy[p]["margins"].get<std::vector<double>>();
    std::size_t from = 0;
    for (std::size_t i = 0; i < expected.size() && margins[i] >= wanted.greedy_margin; ++i) {
      token chosen = -1;
      read.read(text, from,
                [&](std::size_t, std::span<const float> logits) { chosen = best_of(logits); });
      ++steps;
      if (chosen != expected[i]) {
        ++wrong;
        std::printf("%s differs at step %zu\n", greedy[p]["id"].get<std::string>().c_str(), i);
        break;
      }
      from = text.size();
      text.push_back(chosen);
    }
  }
  std::printf("greedy: %zu steps compared, %zu prompts differ\n", steps, wrong);
  expect(wrong == 0, "greedy continuations equal up to the first near tie");
}

// A row alone finds its token by the head's draft: the full pass's, bit for bit the same model.
void check_choices(reader& read, std::size_t texts, std::size_t positions, std::size_t apart) {
  const json perplexity = read_json("perplexity.json")["texts"];
  std::size_t compared = 0, wrong = 0;
  for (const auto& [name, figures] : perplexity.items()) {
    if (texts-- == 0) break;
    auto text = read_json("top1/" + name + ".json")["ids"].get<std::vector<token>>();
    text.resize(std::min(text.size(), positions));
    std::vector<token> best(text.size());
    read.read(text, 0,
              [&](std::size_t at, std::span<const float> logits) { best[at] = best_of(logits); });
    for (std::size_t at = compared % apart; at < text.size(); at += apart) {
      wrong += read.choice(text, at) != best[at];
      ++compared;
    }
  }
  std::printf("greedy rows alone: %zu compared, %zu differ\n", compared, wrong);
  expect(compared > 0 && wrong == 0, "a greedy row's token is the full pass's");
}

// The other paths of this machine, on as much of a text as their speed allows.
void check_paths(const model::model_file& file) {
  for (const auto precision : {cpu::numerics::exact, cpu::numerics::fast}) {
    for (const cpu::isa path : {cpu::isa::avx2, cpu::isa::portable}) {
      cpu::options chosen;
      chosen.precision = precision;
      chosen.path = path;
      auto weights = cpu::prepare_weights(file, chosen);
      if (!weights) continue;  // not on this processor
      auto ops = cpu::make_ops(*weights, chosen);
      expect(ops.has_value(), "operations");
      if (!ops) return;
      reader read(**ops);
      check_choices(read, 1, path == cpu::isa::avx2 ? 400 : 48, path == cpu::isa::avx2 ? 2 : 4);
    }
  }
}

// Every n-th position, of all texts; FORETOKEN_EVERY_POSITION=1 takes them all.
std::size_t positions_apart() {
  return std::getenv("FORETOKEN_EVERY_POSITION") != nullptr ? 1 : 7;
}

struct setting {
  const char* name;
  cpu::numerics precision;
  cpu::kv_type kv;
  bounds wanted;
  cpu::float_weights floats = cpu::float_weights::keep;
};
constexpr setting settings[] = {
    {"exact", cpu::numerics::exact, cpu::kv_type::f16, exact_bounds},
    {"fast", cpu::numerics::fast, cpu::kv_type::automatic, fast_bounds},
    {"exact, KV in bf16", cpu::numerics::exact, cpu::kv_type::bf16, bf16_bounds},
    {"exact, KV in int8", cpu::numerics::exact, cpu::kv_type::int8, int8_bounds}};
constexpr setting w8_settings[] = {
    {"exact, floats as w8", cpu::numerics::exact, cpu::kv_type::f16, w8_bounds,
     cpu::float_weights::w8},
    {"fast, floats as w8", cpu::numerics::fast, cpu::kv_type::automatic, w8_fast_bounds,
     cpu::float_weights::w8}};

std::span<const setting> asked_settings() {
  const char* floats = std::getenv("FORETOKEN_FLOAT_WEIGHTS");
  if (floats != nullptr && std::string(floats) == "w8") return w8_settings;
  return settings;
}

void check(const model::model_file& file, const setting& one) {
  std::printf("== %s\n", one.name);
  const bounds& wanted = one.wanted;
  cpu::options chosen;
  chosen.precision = one.precision;
  chosen.kv = one.kv;
  chosen.floats = one.floats;
  auto weights = cpu::prepare_weights(file, chosen);
  expect(weights.has_value(), "weights");
  if (!weights) return;
  auto ops = cpu::make_ops(*weights, chosen);
  expect(ops.has_value(), "operations");
  if (!ops) return;
  reader read(**ops);
  check_texts(read, wanted);
  check_logits(read, wanted);
  check_greedy(read, wanted);
  if (one.kv <= cpu::kv_type::f16) check_choices(read, 100, 10000, positions_apart());
}

}  // namespace

int main() {
  const std::string path = model_path();
  if (!std::filesystem::exists(path)) {
    std::printf("skipped: no model at %s (set FORETOKEN_MODEL)\n", path.c_str());
    return 77;
  }
  auto file = model::model_file::load(path);
  if (!file) {
    std::printf("FAIL: %s\n", to_string(file.error()).c_str());
    return 1;
  }
  for (const setting& one : asked_settings()) check(**file, one);
  check_paths(**file);
  return failures == 0 ? 0 : 1;
}
