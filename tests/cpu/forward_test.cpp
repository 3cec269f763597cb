// SPDX-License-Identifier: Apache-2.0
// The six tiny architectures of tests/data/reference against transformers' logits and greedy
// tokens.
#include <algorithm>
#include <fstream>

#include <nlohmann/json.hpp>

#include "cpu/weights.hpp"
#include "tests/cpu/made_model.hpp"
#include "tests/reference/worst.hpp"

namespace foretoken {
namespace {

using nlohmann::json;
using test::device;

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

// Greedy tokens as far as the reference's margins are above `margin`.
void check_greedy(device& here, const json& input, double margin) {
  auto text = input["ids"].get<std::vector<token>>();
  const auto expected = input["greedy"].get<std::vector<token>>();
  const auto margins = input["margins"].get<std::vector<double>>();
  const auto pages = test::pages_from(40, 6);
  auto rows = here.read(text, pages, 256);
  for (std::size_t i = 0; i < expected.size() && margins[i] > margin; ++i) {
    CHECK(static_cast<token>(best_of(rows.back())) == expected[i]);
    text.push_back(expected[i]);
    rows = here.run(test::batch_of({device::slice(text, pages, text.size() - 1, 1)}));
  }
}

void check_architecture(const std::string& name, cpu::isa path) {
  CAPTURE(name);
  CAPTURE(cpu::isa_name(path));
  auto file = model::model_file::load(folder + name);
  REQUIRE_MESSAGE(file, (file ? "" : to_string(file.error())));
  const json expected = read_json(folder + name + "/expected.json");
  for (const auto precision : {cpu::numerics::float32, cpu::numerics::exact}) {
    const bool checking = precision == cpu::numerics::float32;
    device here(**file, test::small_options(path, precision));
    for (const json& input : expected["inputs"]) {
      const auto ids = input["ids"].get<std::vector<token>>();
      const auto whole = here.read(ids, test::pages_from(0, 6), 256);
      CHECK(worst_share(input, whole) < (checking ? 1e-4 : 5e-3));
      CHECK(here.read(ids, test::pages_from(7, 6), 1) == whole);
      check_greedy(here, input, checking ? 0.001 : 0.05);
    }
  }
}

TEST_CASE("forward: each architecture gives the reference's logits and greedy tokens") {
  for (const cpu::isa path : test::paths_here()) {
    for (const char* name : {"llama", "mistral", "qwen2", "qwen3", "gemma3", "gpt2"}) {
      check_architecture(name, path);
    }
  }
}

TEST_CASE("forward: floats packed as 8 bits stay near, and a text's bits do not depend on chunks") {
  for (const cpu::isa path : test::paths_here()) {
    for (const char* name : {"llama", "mistral", "qwen2", "qwen3", "gemma3", "gpt2"}) {
      CAPTURE(name);
      CAPTURE(cpu::isa_name(path));
      auto file = model::model_file::load(folder + name);
      REQUIRE_MESSAGE(file, (file ? "" : to_string(file.error())));
      const json expected = read_json(folder + name + "/expected.json");
      for (const auto precision : {cpu::numerics::exact, cpu::numerics::fast}) {
        cpu::options chosen = test::small_options(path, precision);
        const std::uint64_t kept = cpu::weight_bytes(**file, chosen);
        chosen.floats = cpu::float_weights::w8;
        CHECK(cpu::weight_bytes(**file, chosen) < kept);
        device here(**file, chosen);
        for (const json& input : expected["inputs"]) {
          const auto ids = input["ids"].get<std::vector<token>>();
          const auto whole = here.read(ids, test::pages_from(0, 6), 256);
          CHECK(worst_share(input, whole) < 0.15);
          CHECK(here.read(ids, test::pages_from(7, 6), 1) == whole);
        }
      }
    }
  }
}

}  // namespace
}  // namespace foretoken
