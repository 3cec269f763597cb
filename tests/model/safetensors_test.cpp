// SPDX-License-Identifier: Apache-2.0
// Spoiled safetensors files, shard indexes and tokenizers, each with the field its error must name.
#include <cstring>
#include <functional>
#include <random>

#include <doctest/doctest.h>

#include "model/hugging_face.hpp"
#include "model/safetensors.hpp"

using namespace foretoken;
using namespace foretoken::model;

namespace {

std::span<const std::byte> view(const std::string& text) {
  return std::as_bytes(std::span(text));
}

std::string with_length(std::uint64_t length, const std::string& header, std::size_t data = 0) {
  std::string out(8, '\0');
  std::memcpy(out.data(), &length, 8);
  return out + header + std::string(data, '\1');
}
std::string file_of(const std::string& header, std::size_t data) {
  return with_length(header.size(), header, data);
}

status parse(const std::string& bytes) {
  tensor_store store;
  return parse_safetensors(view(bytes), "file", store);
}

const std::string good =
    R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
    R"("b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]}})";

json tokenizer_document() {
  return json::parse(R"({
    "added_tokens": [{"id": 0, "content": "</s>", "special": true}],
    "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
    "post_processor": null,
    "model": {"type": "BPE", "vocab": {"</s>": 0, "a": 1, "b": 2, "ab": 3}, "merges": ["a b"]}})");
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
  const std::string bytes = file_of(good, 32);
  REQUIRE(parse_safetensors(view(bytes), "file", store));
  REQUIRE(store.find("a") != nullptr);
  CHECK(store.find("a")->bytes.size() == 24);
  CHECK(store.find("b")->type == dtype::bf16);
}

TEST_CASE("safetensors: a broken file is refused") {
  const auto one = [](const std::string& entry) { return file_of("{\"a\":" + entry + "}", 24); };
  const std::string deep(10000, '[');
  struct row {
    const char* what;
    std::string bytes;
    const char* field;
  };
  const std::vector<row> table{
      {"empty", "", "file"},
      {"7 bytes", std::string(7, '\0'), "file"},
      {"header 0", with_length(0, "{}"), "file"},
      {"header beyond the file", with_length(100, "{}"), "file"},
      {"header 2^63", with_length(std::uint64_t{1} << 63, "{}"), "file"},
      {"header 100 MB", with_length(100'000'001, "{}"), "file"},
      {"begins with a space", file_of(" {}", 0), "file"},
      {"invalid UTF-8", file_of("{\"\xff\":1}", 0), "file"},
      {"text after the JSON", file_of("{}x", 0), "file"},
      {"cut JSON", file_of("{\"a\":", 0), "file"},
      {"depth 10000", file_of("{\"a\":" + deep + "}", 0), "file"},
      {"number too large", file_of("{\"a\":1e999}", 0), "file"},
      {"key twice",
       file_of(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
               R"("a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
               1),
       "file"},
      {"begin > end", one(R"({"dtype":"F32","shape":[6],"data_offsets":[24,0]})"), "a"},
      {"hole", one(R"({"dtype":"F32","shape":[5],"data_offsets":[4,24]})"), "a"},
      {"beyond the end", one(R"({"dtype":"F32","shape":[7],"data_offsets":[0,28]})"), "a"},
      {"bytes left over", one(R"({"dtype":"F32","shape":[5],"data_offsets":[0,20]})"), "file"},
      {"overlap",
       file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
               R"("b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
               12),
       "b"},
      {"shape wraps to 4",
       one(R"({"dtype":"U8","shape":[4194305,4194305,211106198978564],"data_offsets":[0,4]})"),
       "a"},
      {"unknown dtype", one(R"({"dtype":"F7","shape":[6],"data_offsets":[0,24]})"), "a"},
      {"no dtype", one(R"({"shape":[6],"data_offsets":[0,24]})"), "a"},
      {"size differs", one(R"({"dtype":"F32","shape":[5],"data_offsets":[0,24]})"), "a"},
      {"negative extent", one(R"({"dtype":"F32","shape":[-6],"data_offsets":[0,24]})"), "a"},
      {"three offsets", one(R"({"dtype":"F32","shape":[6],"data_offsets":[0,24,24]})"), "a"},
      {"entry is a number", one("7"), "a"},
      {"metadata is a list", file_of(R"({"__metadata__":[]})", 0), "file"},
      {"metadata holds a number", file_of(R"({"__metadata__":{"a":1}})", 0), "file"},
  };
  for (const auto& [what, bytes, field] : table) {
    CAPTURE(what);
    const auto read = parse(bytes);
    REQUIRE(!read);
    CHECK(read.error().code == errc::corrupt);
    CHECK(read.error().field == field);
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

TEST_CASE("safetensors: random mutations and cuts never crash") {
  const std::string bytes = file_of(good, 32);
  std::mt19937 random(4);
  int accepted = 0;
  for (int round = 0; round < 6000; ++round) {
    std::string mutated = bytes;
    for (unsigned change = 0; change <= random() % 4; ++change) {
      mutated[random() % mutated.size()] = static_cast<char>(random());
    }
    if (round % 7 == 0) mutated.resize(random() % mutated.size());
    if (parse(mutated)) ++accepted;
  }
  CHECK(accepted > 0);
  CHECK(accepted < 6000);
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

TEST_CASE("tokenizer.json: what is broken or unknown is refused") {
  using edit = std::function<void(json&)>;
  const std::vector<std::pair<const char*, edit>> table{
      {"model.vocab", [](json& d) { d["model"]["vocab"]["b"] = 1; }},  // an id twice
      {"model.vocab", [](json& d) { d["model"]["vocab"]["b"] = 4; }},  // a gap
      {"model.vocab", [](json& d) { d["model"]["vocab"]["b"] = 2147483648u; }},
      {"model.vocab", [](json& d) { d["model"]["vocab"]["b"] = -1; }},
      {"model.vocab", [](json& d) { d["model"]["vocab"]["c"] = 4; }},  // more than rows
      {"model.vocab", [](json& d) { d["model"]["vocab"] = json::array(); }},
      {"merges", [](json& d) { d["model"]["merges"][0] = "a zz"; }},
      {"model.merges", [](json& d) { d["model"]["merges"][0] = "ab"; }},
      {"model.merges", [](json& d) { d["model"]["merges"][0] = json::array({"a"}); }},
      {"model.type", [](json& d) { d["model"]["type"] = "Unigram"; }},
      {"added_tokens", [](json& d) { d["added_tokens"][0]["content"] = ""; }},
      {"added_tokens", [](json& d) { d["added_tokens"][0]["lstrip"] = true; }},
      {"added_tokens", [](json& d) { d["added_tokens"][0]["id"] = "0"; }},
      {"normalizer",
       [](json& d) {
         d["normalizer"] = {{"type", "Lowercase"}};
       }},
      {"pre_tokenizer.pattern",
       [](json& d) {
         d["pre_tokenizer"] = {
             {"type", "Split"}, {"pattern", {{"Regex", "(a+)+$"}}}, {"behavior", "Isolated"}};
         d["pre_tokenizer"] = {
             {"type", "Sequence"},
             {"pretokenizers",
              {d["pre_tokenizer"], {{"type", "ByteLevel"}, {"use_regex", false}}}}};
       }},
      {"pre_tokenizer", [](json& d) { d["pre_tokenizer"]["use_regex"] = false; }},
      {"post_processor",
       [](json& d) {
         d["post_processor"] = {{"type", "BertProcessing"}};
       }},
      {"post_processor.special_tokens",
       [](json& d) {
         d["post_processor"] = {{"type", "TemplateProcessing"},
                                {"single", {{{"SpecialToken", {{"id", "<s>"}}}}}}};
       }},
  };
  for (const auto& [field, spoil] : table) {
    json document = tokenizer_document();
    spoil(document);
    CAPTURE(field);
    const auto read = read_tokenizer(std::move(document));
    REQUIRE(!read);
    CHECK(read.error().field == std::string("tokenizer.json ") + field);
  }
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
  CHECK(spec->add_space_prefix);
  CHECK(spec->byte_fallback);
  CHECK(spec->add_bos);
  CHECK(spec->bos == 1);
  CHECK(spec->unknown == 0);
  CHECK(spec->kinds[0] == tokenizer::token_kind::unknown);
  CHECK(spec->kinds[2] == tokenizer::token_kind::byte);
}
