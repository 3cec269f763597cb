// SPDX-License-Identifier: Apache-2.0
// safetensors, shard indexes and tokenizer.json from memory: what is valid and what is refused.
#include <doctest/doctest.h>

#include "model/hugging_face.hpp"
#include "model/safetensors.hpp"
#include "tests/model/spoiled_hugging_face.hpp"

using namespace foretoken;
using namespace foretoken::model;

namespace {

std::span<const std::byte> view(const std::string& text) {
  return std::as_bytes(std::span(text));
}

status parse(const std::string& bytes) {
  tensor_store store;
  return parse_safetensors(view(bytes), "file", store);
}

result<tokenizer::vocabulary_spec> read_tokenizer(json document, int rows = 4) {
  hyperparameters shape;
  shape.vocabulary = rows;
  return hugging_face_vocabulary(
      {json::object(), json::object(), std::move(document), json::object()}, shape);
}

}  // namespace

TEST_CASE("safetensors: a good file gives its tensors") {
  tensor_store store;
  const std::string bytes = good_safetensors();
  REQUIRE(parse_safetensors(view(bytes), "file", store));
  REQUIRE(store.find("a") != nullptr);
  CHECK(store.find("a")->bytes.size() == 24);
  CHECK(store.find("b")->type == dtype::bf16);
}

TEST_CASE("safetensors: every spoiled file is refused by name") {
  for (const spoiled_file& one : spoiled_safetensors("file")) {
    CAPTURE(one.what);
    tensor_store store;
    const auto read = parse_safetensors(one.bytes, "file", store);
    REQUIRE(!read);
    CHECK(errc_name(read.error().code) == std::string(errc_name(one.code)));
    CHECK(read.error().field == one.field);
  }
}

TEST_CASE("safetensors: shards must be plain file names") {
  for (const char* name : {"../../etc/passwd", "/etc/passwd", "a/b.safetensors", "..",
                           ".safetensors", "a\\\\b.safetensors", "x.bin", "a\\u0000.safetensors"}) {
    CAPTURE(name);
    const std::string text = std::string(R"({"weight_map":{"w":")") + name + "\"}}";
    CHECK(parse_shard_index(view(text), "index").error().field == "index");
  }
  const std::string two =
      R"({"weight_map":{"v":"m-2.safetensors","w":"m-1.safetensors","x":"m-2.safetensors"}})";
  const auto shards = parse_shard_index(view(two), "index");
  REQUIRE(shards);
  CHECK(*shards == std::vector<std::string>{"m-1.safetensors", "m-2.safetensors"});
}

TEST_CASE("safetensors: a file cut anywhere is refused") {
  const std::string bytes = good_safetensors();
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    REQUIRE(!parse(bytes.substr(0, length)));
  }
}

TEST_CASE("tokenizer.json: padded embeddings get unused tokens") {
  const auto spec = read_tokenizer(tokenizer_document(), 6);
  REQUIRE(spec);
  CHECK(spec->pieces.size() == 6);
  CHECK(spec->kinds[5] == tokenizer::token_kind::unused);
  CHECK(spec->end_of_generation == std::vector<token>{0});
}

TEST_CASE("tokenizer.json: every spoiled document is refused by name") {
  for (const spoiled_file& one : spoiled_tokenizers()) {
    CAPTURE(one.what);
    const auto document = parse_json(one.bytes, "tokenizer.json");
    REQUIRE(document);
    const auto read = read_tokenizer(*document);
    REQUIRE(!read);
    CHECK(errc_name(read.error().code) == std::string(errc_name(one.code)));
    CHECK(read.error().field == one.field);
  }
}

TEST_CASE("tokenizer.json: Metaspace says where a space goes in front, and what it cannot mean") {
  using tokenizer::space_prefix;
  json document = tokenizer_document();
  const auto read = [&](const char* changes) {
    document["pre_tokenizer"] = {
        {"type", "Metaspace"}, {"replacement", "\xE2\x96\x81"}, {"split", false}};
    document["pre_tokenizer"].update(json::parse(changes));
    return read_tokenizer(document);
  };
  CHECK(read(R"({})")->prefix == space_prefix::missing);
  CHECK(read(R"({"prepend_scheme": "always"})")->prefix == space_prefix::missing);
  CHECK(read(R"({"prepend_scheme": "first"})")->prefix == space_prefix::missing_at_start);
  CHECK(read(R"({"prepend_scheme": "never"})")->prefix == space_prefix::never);
  struct row {
    const char *changes, *field;
  };
  for (const row& entry :
       {row{R"({"prepend_scheme": "last"})", "prepend_scheme"},
        row{R"({"add_prefix_space": false})", "add_prefix_space"},
        row{R"({"replacement": "_"})", "replacement"}, row{R"({"split": true})", "split"}}) {
    const auto refused = read(entry.changes);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().field == std::string("tokenizer.json pre_tokenizer.") + entry.field);
  }
  document["normalizer"] = {{"type", "Prepend"}, {"prepend", "\xE2\x96\x81"}};
  CHECK(read(R"({"prepend_scheme": "first"})")->prefix == space_prefix::always);
}

TEST_CASE("tokenizer.json: SentencePiece style is recognised by its parts") {
  const json document = json::parse(R"({
    "added_tokens": [{"id": 0, "content": "<unk>", "special": true},
                     {"id": 1, "content": "<s>", "special": true}],
    "normalizer": {"type": "Sequence", "normalizers": [
      {"type": "Prepend", "prepend": "\u2581"},
      {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
    "pre_tokenizer": null,
    "post_processor": {"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
      "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
    "model": {"type": "BPE", "byte_fallback": true, "unk_token": "<unk>",
      "vocab": {"<unk>": 0, "<s>": 1, "<0x41>": 2, "\u2581": 3, "a": 4, "\u2581a": 5},
      "merges": ["\u2581 a"]}})");
  const auto spec = read_tokenizer(document, 6);
  if (!spec) FAIL(to_string(spec.error()));
  CHECK(spec->kind == tokenizer::algorithm::sentencepiece_bpe);
  CHECK(spec->prefix == tokenizer::space_prefix::always);
  CHECK(spec->byte_fallback);
  CHECK(spec->add_bos);
  CHECK(spec->bos == 1);
  CHECK(spec->unknown == 0);
  CHECK(spec->kinds[0] == tokenizer::token_kind::unknown);
  CHECK(spec->kinds[2] == tokenizer::token_kind::byte);
}
