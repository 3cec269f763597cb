// SPDX-License-Identifier: Apache-2.0
// Spoiled files: whatever the bytes, a parser ends with a value or an error, and takes no more
// memory than a small multiple of what it was given.
#include <doctest/doctest.h>

#include <fstream>
#include <iterator>
#include <span>

#include "config/load.hpp"
#include "model/hugging_face.hpp"
#include "model/safetensors.hpp"
#include "tests/fuzz/mutator.hpp"
#include "tests/model/gguf_writer.hpp"
#include "tests/model/spoiled_hugging_face.hpp"
#include "tokenizer/tokenizer.hpp"

using namespace foretoken;
using test::mutator;

namespace {

std::span<const std::byte> view(const std::string& text) {
  return std::as_bytes(std::span(text));
}

std::string content(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Feeds spoiled forms of `goods` to `parse`, which says whether it accepted. Copies have exactly
// the length of the input, so that a sanitizer sees the first byte beyond it.
template <class Parse>
void fuzz(const std::vector<std::string>& goods,
          std::vector<std::string> words,
          std::uint64_t rounds,
          Parse&& parse) {
  mutator random(test::fuzz_seed(), std::move(words));
  std::uint64_t accepted = 0;
  for (std::uint64_t round = 0; round < test::fuzz_rounds(rounds); ++round) {
    std::string text = random.spoil(goods[random.below(goods.size())]);
    text.shrink_to_fit();
    const auto before = test::allocated_bytes();
    if (parse(text)) ++accepted;
    const auto taken = test::allocated_bytes() - before;
    // JSON takes some hundred bytes a value and a value may be one byte; the rest is head room.
    if (taken > (8u << 20) + 2000 * text.size()) {
      FAIL("seed " << test::fuzz_seed() << " round " << round << ": " << taken << " bytes for "
                   << text.size());
    }
  }
  // A fuzzer that never or always fails shows nothing.
  if (rounds < 1000) return;
  CHECK(accepted > 0);
  CHECK(accepted < test::fuzz_rounds(rounds));
}

// A vocabulary that was accepted must also encode and decode anything.
bool use(tokenizer::vocabulary_spec spec) {
  const auto words = tokenizer::tokenizer::make(std::move(spec));
  if (!words) return false;
  const auto ids = (*words)->encode("ab \xff abab</s>\xE2\x96\x81", {.parse_special = true});
  for (const token id : ids) CHECK((id >= 0 && id < (*words)->size()));
  return (*words)->decode(ids).size() < 1000;
}

}  // namespace

TEST_CASE("fuzz: GGUF") {
  const auto text_of = [](const model::written_gguf& file) {
    const auto bytes = file.bytes();
    return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  };
  auto sentencepiece = model::small_gguf();
  sentencepiece.set("tokenizer.ggml.model", model::words("llama"));
  sentencepiece.set("tokenizer.ggml.scores", model::list_of<float>(6, std::vector<float>(8)));
  fuzz({text_of(model::small_gguf()), text_of(sentencepiece)},
       {"GGUF", "general.alignment", "llama", "\x08", "\x09", "<0x41>", "tokenizer.ggml.tokens"},
       20'000, [](const std::string& text) {
         const auto contents = model::parse_gguf(view(text));
         if (!contents) return false;
         const auto shape = model::gguf_shape(*contents);
         if (!shape || !model::assemble_gguf(contents->tensors, *shape)) return false;
         auto spec = model::gguf_vocabulary(*contents, *shape);
         return spec && use(std::move(*spec));
       });
}

TEST_CASE("fuzz: safetensors") {
  fuzz({model::good_safetensors()},
       {"\"dtype\":", "\"F32\"", "\"BF16\"", "\"shape\":[", "\"data_offsets\":[", "[0,24]", "{",
        "}", "9e9", "-1", "18446744073709551615", "\"__metadata__\":"},
       20'000, [](const std::string& text) {
         model::tensor_store store;
         return model::parse_safetensors(view(text), "file", store).has_value();
       });
}

TEST_CASE("fuzz: tokenizer.json") {
  const std::string folder = FORETOKEN_TEST_DATA "/reference/architectures/";
  fuzz({model::tokenizer_document().dump(), content(folder + "llama/tokenizer.json")},
       {"null", "true", "[]", "{}", "\"\"", "-1", "2147483648", "\"id\":", "\"content\":",
        "\"merges\":", "\"Regex\":", "\"ByteLevel\"", "\\ud800", "\"a b\"", "[\"a\",\"b\"]"},
       6'000, [](const std::string& text) {
         auto document = model::parse_json(view(text), "tokenizer.json");
         if (!document) return false;
         model::hyperparameters shape;
         shape.vocabulary = text.size() < 1000 ? 4 : 384;
         auto spec = model::hugging_face_vocabulary({model::json::object(), model::json::object(),
                                                     std::move(*document), model::json::object()},
                                                    shape);
         return spec && use(std::move(*spec));
       });
}

TEST_CASE("fuzz: config.json") {
  std::vector<std::string> goods;
  for (const char* name : {"llama", "gemma3", "qwen2", "gpt2", "mistral", "qwen3"}) {
    for (const char* file : {"config.json", "config_v5.json"}) {
      goods.push_back(content(std::string(FORETOKEN_TEST_DATA "/reference/architectures/") + name +
                              '/' + file));
    }
  }
  fuzz(goods,
       {"null", "true", "[]", "{}", "\"\"", "-1", "0", "1e308", "2147483648", "0.5", "\"llama\"",
        "\"gemma3\""},
       10'000, [](const std::string& text) {
         const auto document = model::parse_json(view(text), "config.json");
         return document && model::hugging_face_shape(*document).has_value();
       });
}

TEST_CASE("fuzz: configuration") {
  fuzz({content(FORETOKEN_ROOT "/foretoken.toml"),
        "[cpu]\nthreads = 2\n[cache]\nkv_bytes = \"1 MiB\"\n"},
       {"=", "[", "]", "[[", "\"\"\"", "'''", "\n[cpu]\n", "nan", "1e400", "0x", "1979-05-27", "{",
        "#", "\\u0000", "threads", ".", "\xC3\xA9", "\xE3\x81\x82", "\n"},
       4'000, [](const std::string& text) {
         config::settings all;
         return config::read_text(text, "t.toml", all).has_value();
       });
}
