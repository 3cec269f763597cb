// SPDX-License-Identifier: Apache-2.0
// The six tiny architectures of tests/data/reference through the device library's whole forward
// pass, kernels emulated, against transformers' logits and greedy tokens.
#include <algorithm>
#include <fstream>

#include <nlohmann/json.hpp>

#include "tests/gpu/device.hpp"
#include "tests/reference/worst.hpp"

namespace foretoken {
namespace {

using nlohmann::json;
using test::gpu_device;

const std::string folder = FORETOKEN_TEST_DATA "/reference/architectures/";

json read_json(const std::string& path) {
  std::ifstream in(path);
  REQUIRE_MESSAGE(in.good(), path);
  return json::parse(in);
}

std::size_t best_of(const std::vector<float>& logits) {
  return static_cast<std::size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

// Largest difference to the listed logits, as a share of the largest |logit| of the position.
double worst_share(const json& input, const test::row_logits& got) {
  double worst = 0;
  for (const json& position : input["positions"]) {
    const auto expected = position["logits"].get<std::vector<double>>();
    const auto& row = got.at(position["position"].get<std::size_t>());
    REQUIRE(row.size() == expected.size());
    double largest = 0;
    double away = 0;
    for (std::size_t n = 0; n < row.size(); ++n) {
      largest = std::max(largest, std::abs(expected[n]));
      away = reference::worse(away, std::abs(static_cast<double>(row[n]) - expected[n]));
    }
    worst = reference::worse(worst, away / largest);
  }
  return worst;
}

// Greedy tokens as far as the reference's margins are clear.
void check_greedy(gpu_device& here, const json& input) {
  auto text = input["ids"].get<std::vector<token>>();
  const auto expected = input["greedy"].get<std::vector<token>>();
  const auto margins = input["margins"].get<std::vector<double>>();
  const auto pages = test::pages_from(40, 6);
  auto rows = here.read(text, pages, 64);
  for (std::size_t i = 0; i < std::min<std::size_t>(expected.size(), 8) && margins[i] > 0.05; ++i) {
    CHECK(static_cast<token>(best_of(rows.back())) == expected[i]);
    text.push_back(expected[i]);
    rows = here.run(test::batch_of({test::device::slice(text, pages, text.size() - 1, 1)}));
  }
}

TEST_CASE("gpu forward: each architecture gives the reference's logits, in any chunking") {
  for (const char* name : {"llama", "mistral", "qwen2", "qwen3", "gemma3", "gpt2"}) {
    CAPTURE(name);
    auto file = model::model_file::load(folder + name);
    REQUIRE_MESSAGE(file, (file ? "" : to_string(file.error())));
    const json expected = read_json(folder + name + "/expected.json");
    gpu_device here(**file);
    for (const json& input : expected["inputs"]) {
      const auto ids = input["ids"].get<std::vector<token>>();
      const auto whole = here.read(ids, test::pages_from(0, 6), 128);
      const double share = worst_share(input, whole);
      MESSAGE(std::string(name) << ": " << ids.size() << " tokens, largest share " << share);
      CHECK(share < 5e-3);
      if (&input != &expected["inputs"].front()) continue;
      CHECK(here.read(ids, test::pages_from(7, 6), 1) == whole);
      CHECK(here.read(ids, test::pages_from(14, 6), 5) == whole);
      check_greedy(here, input);
    }
  }
}

TEST_CASE("gpu forward: keys and values as codes stay near the reference, in any chunking") {
  for (const char* name : {"llama", "qwen3", "gemma3", "gpt2"}) {
    CAPTURE(name);
    auto file = model::model_file::load(folder + name);
    REQUIRE_MESSAGE(file, (file ? "" : to_string(file.error())));
    gpu::options chosen = test::gpu_options();
    chosen.kv = gpu::kv_form::int8;
    gpu_device here(**file, chosen);
    const json input = read_json(folder + name + "/expected.json")["inputs"].front();
    const auto ids = input["ids"].get<std::vector<token>>();
    const auto whole = here.read(ids, test::pages_from(0, 6), 128);
    const double share = worst_share(input, whole);
    MESSAGE(std::string(name) << ": largest share " << share);
    CHECK(share < 3e-2);
    CHECK(here.read(ids, test::pages_from(7, 6), 1) == whole);
    CHECK(here.read(ids, test::pages_from(14, 6), 5) == whole);
  }
}

}  // namespace
}  // namespace foretoken
