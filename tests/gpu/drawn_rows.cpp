// SPDX-License-Identifier: Apache-2.0
#include "tests/gpu/drawn_rows.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include "model/forward.hpp"

namespace foretoken::test {
namespace {

using nlohmann::json;

// In one step: alone, a few a lane of a launch of clusters, more than eight a lane, as many as
// there are logits for at once (of SmolLM2), and more, whose head runs block by block.
constexpr int step_rows[] = {1, 40, 64, 128, 150};
constexpr int sequences = 150;
constexpr int text_max = 60;
constexpr int pages_each = (text_max + page_tokens - 1) / page_tokens;
// More alternatives than a device gives: it hands the row of logits over, and model::sample()
// draws.
constexpr int host_logprobs = 33;

model::sampling_parameters how(int kind) {
  model::sampling_parameters out;
  out.seed = static_cast<std::uint64_t>(kind) * 7919 + 1;
  out.temperature = 0.4f + 0.3f * static_cast<float>(kind % 5);
  if (kind % 11 == 10) out.temperature = 0;
  if (kind % 3 == 1) out.top_k = 5 + kind % 60;
  if (kind % 4 == 2) out.top_p = 0.7f + 0.02f * static_cast<float>(kind % 13);
  if (kind % 5 == 3) out.min_p = 0.02f;
  if (kind % 6 >= 4) out.repetition_penalty = 1.2f;
  if (kind % 7 == 2) out.presence_penalty = 0.7f;
  if (kind % 7 == 5) out.frequency_penalty = 0.4f;
  if (kind % 8 == 6) out.logit_bias = {{3, 2.5f}, {17, -100.0f}};
  out.logprobs = kind % 13 - 1;
  return out;
}

struct sequence {
  std::vector<token> prompt, generated;
  std::vector<page_id> pages;
  model::sampling_parameters how;

  model::slice part(std::size_t first, std::size_t end) const {
    model::slice one;
    one.position = static_cast<int>(first);
    one.tokens.assign(prompt.begin() + static_cast<std::ptrdiff_t>(first),
                      prompt.begin() + static_cast<std::ptrdiff_t>(end));
    one.pages = pages;
    return one;
  }
  model::slice before() const { return part(0, prompt.size() - 1); }
  model::slice last(int logprobs) const {
    model::slice one = part(prompt.size() - 1, prompt.size());
    auto own = std::make_shared<model::sampling_parameters>(how);
    own->logprobs = logprobs;
    one.sample_last = true;
    one.sampling = own;
    one.prompt = std::make_shared<const std::vector<token>>(prompt);
    one.generated = generated;
    one.generated_count = generated.size();
    return one;
  }
};

std::vector<sequence> made(const std::vector<token>& text) {
  std::vector<sequence> out;
  for (int s = 0; s < sequences; ++s) {
    const auto at = static_cast<std::size_t>(s);
    const std::size_t most = std::min<std::size_t>(text_max, text.size());
    const std::size_t length = std::min(most, 2 + at * 7 % text_max);
    const std::size_t first = at * 13 % (text.size() - length + 1);
    sequence one;
    const auto begin = text.begin() + static_cast<std::ptrdiff_t>(first);
    one.prompt.assign(begin, begin + static_cast<std::ptrdiff_t>(length));
    one.generated.assign(begin, begin + static_cast<std::ptrdiff_t>(std::min(length, at % 6)));
    const int pages = static_cast<int>((length + page_tokens - 1) / page_tokens);
    for (int p = 0; p < pages; ++p) one.pages.push_back(page_id{s * pages_each + p});
    one.how = how(s);
    out.push_back(std::move(one));
  }
  return out;
}

std::vector<model::sampled> run(model::ops& ops, std::vector<model::slice> slices) {
  model::micro_batch batch;
  batch.slices = std::move(slices);
  const auto done = model::forward(ops, batch);
  if (!done) {
    std::fprintf(stderr, "step: %s\n", to_string(done.error()).c_str());
    std::exit(1);
  }
  std::vector<model::sampled> out;
  for (const auto& each : done->slices) out.push_back(each.next);
  return out;
}

// Tokens alike, log-probabilities alike but for the last digits of their sum.
bool near(const model::sampled& device, const model::sampled& host, int logprobs) {
  return device.id == host.id && !device.non_finite &&
         (logprobs < 0 || std::abs(device.logprob - host.logprob) < 1e-4f);
}

}  // namespace

bool same_bits(const model::sampled& a, const model::sampled& b) {
  return a.id == b.id && a.logprob == b.logprob && a.top.size() == b.top.size() &&
         std::equal(a.top.begin(), a.top.end(), b.top.begin(), [](const auto& x, const auto& y) {
           return x.id == y.id && x.logprob == y.logprob;
         });
}

json check_draws(model::ops& ops, const std::vector<token>& text) {
  const std::vector<sequence> all = made(text);
  std::vector<model::sampled> alone, by_host;
  for (const sequence& each : all) {
    if (each.prompt.size() > 1) run(ops, {each.before()});
    alone.push_back(run(ops, {each.last(each.how.logprobs)})[0]);
    by_host.push_back(run(ops, {each.last(host_logprobs)})[0]);
  }
  json out{{"holds", true}};
  for (const int rows : step_rows) {
    std::vector<model::slice> slices;
    for (int i = 0; i < rows; ++i) {
      const sequence& each = all[static_cast<std::size_t>(i)];
      slices.push_back(each.last(each.how.logprobs));
    }
    const auto first = run(ops, slices), second = run(ops, slices);
    int twice = 0, other = 0, host = 0;
    for (std::size_t i = 0; i < slices.size(); ++i) {
      twice += !same_bits(first[i], second[i]);
      other += !same_bits(first[i], alone[i]);
      host += !near(first[i], by_host[i], all[i].how.logprobs);
    }
    out[std::to_string(rows) + " rows"] = {
        {"twice_differ", twice}, {"alone_differ", other}, {"host_differ", host}};
    if (twice + other + host > 0) out["holds"] = false;
  }
  return out;
}

}  // namespace foretoken::test
