// SPDX-License-Identifier: Apache-2.0
// The tokenizer.json of each tiny reference model against the ids of the program that made it.
#include <doctest/doctest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "tokenizer/tokenizer.hpp"

using namespace foretoken::tokenizer;
using foretoken::token;
using json = nlohmann::json;

namespace {

json read(const std::string& folder, const char* name) {
  std::ifstream in(std::string(FORETOKEN_TEST_DATA "/reference/architectures/") + folder + "/" +
                   name);
  return json::parse(in);
}

// Only what these files use; the loader for all files is model/'s.
vocabulary_spec spec_of(const json& file, pre_tokenizer pre) {
  vocabulary_spec spec;
  spec.pre = pre;
  const json& vocabulary = file.at("model").at("vocab");
  spec.pieces.resize(vocabulary.size());
  spec.kinds.resize(vocabulary.size(), token_kind::normal);
  for (const auto& [piece, id] : vocabulary.items()) spec.pieces.at(id.get<std::size_t>()) = piece;
  for (const json& added : file.at("added_tokens")) {
    const auto id = added.at("id").get<std::size_t>();
    if (id >= spec.pieces.size()) {
      spec.pieces.resize(id + 1);
      spec.kinds.resize(id + 1);
    }
    spec.pieces[id] = added.at("content").get<std::string>();
    spec.kinds[id] = added.at("special") ? token_kind::control : token_kind::user_defined;
  }
  for (const json& merge : file.at("model").at("merges")) {
    spec.merges.emplace_back(merge.at(0), merge.at(1));
  }
  spec.normalise_nfc = !file.at("normalizer").is_null();
  spec.add_bos = file.at("post_processor").is_object();
  spec.bos = 0;
  return spec;
}

}  // namespace

TEST_CASE("tokenizer: the tiny models' texts have the reference ids") {
  struct row {
    const char* folder;
    pre_tokenizer pre;
  };
  const row table[] = {{"llama", pre_tokenizer::llama3}, {"mistral", pre_tokenizer::gpt2},
                       {"qwen2", pre_tokenizer::qwen2},  {"qwen3", pre_tokenizer::qwen2},
                       {"gemma3", pre_tokenizer::gpt2},  {"gpt2", pre_tokenizer::gpt2}};
  for (const auto& [folder, pre] : table) {
    CAPTURE(folder);
    const auto made = tokenizer::make(spec_of(read(folder, "tokenizer.json"), pre));
    REQUIRE(made);
    const json expected = read(folder, "expected.json").at("tokenizer");
    CHECK(expected.size() == 8);
    for (const json& line : expected) {
      const auto text = line.at("text").get<std::string>();
      CAPTURE(text);
      CHECK((*made)->encode(text, {.parse_special = true}) ==
            line.at("ids").get<std::vector<token>>());
    }
  }
}
