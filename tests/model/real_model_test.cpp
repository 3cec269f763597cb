// SPDX-License-Identifier: Apache-2.0
// The real SmolLM2 file. Exits 77 (skipped) when it is not there.
#define DOCTEST_CONFIG_IMPLEMENT
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <string>

#include <doctest/doctest.h>

#include "model/model_file.hpp"

using namespace foretoken;
using namespace foretoken::model;

namespace {

std::filesystem::path model_path() {
  if (const char* named = std::getenv("FORETOKEN_MODEL")) return named;
  const char* home = std::getenv("HOME");
  return std::filesystem::path(home == nullptr ? "" : home) / ".cache" / "foretoken" /
         "SmolLM2-135M-Instruct.Q4_1.gguf";
}

}  // namespace

TEST_CASE("real model: shape, types and vocabulary of SmolLM2") {
  const auto loaded = model_file::load(model_path());
  if (!loaded) FAIL(to_string(loaded.error()));
  const auto& file = **loaded;
  CHECK(file.format == "GGUF v3");
  CHECK(file.file_bytes == 98'362'432);
  CHECK(file.shape.arch == architecture::llama);
  CHECK(file.shape.layers == 30);
  CHECK(file.shape.width == 576);
  CHECK(file.shape.heads == 9);
  CHECK(file.shape.kv_heads == 3);
  CHECK(file.shape.head_dim == 64);
  CHECK(file.shape.ffn == 1536);
  CHECK(file.shape.vocabulary == 49152);
  CHECK(file.shape.context == 8192);
  CHECK(file.shape.tied_head);
  CHECK(file.shape.rope_neighbours);
  CHECK(file.shape.ropes.at(0).frequency.at(1) ==
        doctest::Approx(std::pow(1e5, -2.0 / 64)).epsilon(1e-6));
  CHECK(file.tensors.embedding.type == dtype::q8_0);
  CHECK(file.tensors.layers.at(29).down.type == dtype::q4_1);
  CHECK(file.vocabulary.pre == tokenizer::pre_tokenizer::smollm);
  CHECK(file.vocabulary.merges.size() == 48900);
  CHECK(file.vocabulary.end_of_generation == std::vector<token>{0, 2});
  CHECK(!file.vocabulary.add_bos);
  CHECK(!file.chat_template.empty());
}

int main(int argc, char** argv) {
  if (!std::filesystem::exists(model_path())) return 77;
  doctest::Context context(argc, argv);
  return context.run();
}
