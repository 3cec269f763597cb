// SPDX-License-Identifier: Apache-2.0
#include "tests/model/spoiled_hugging_face.hpp"

#include <cstring>
#include <functional>
#include <span>

namespace foretoken::model {
namespace {

std::string with_length(std::uint64_t length, const std::string& header, std::size_t data = 0) {
  std::string out(8, '\0');
  std::memcpy(out.data(), &length, 8);
  return out + header + std::string(data, '\1');
}
std::string file_of(const std::string& header, std::size_t data) {
  return with_length(header.size(), header, data);
}

std::vector<std::byte> bytes_of(const std::string& text) {
  const auto view = std::as_bytes(std::span(text));
  return {view.begin(), view.end()};
}

const std::string good =
    R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
    R"("b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]}})";

struct file_row {
  int entry;
  const char* what;
  std::string bytes;
  std::string field;
};
struct document_row {
  int entry;
  const char* what;
  const char* field;
  std::function<void(json&)> spoil;
  errc code = errc::corrupt;
};

void add(std::vector<spoiled_file>& to, const std::vector<file_row>& rows) {
  for (const auto& each : rows)
    to.push_back({each.entry, each.what, bytes_of(each.bytes), each.field});
}

void spoil_header(std::vector<spoiled_file>& to, const std::string& file) {
  const std::string deep(10000, '[');
  add(to, {
              {29, "empty", "", file},
              {29, "7 bytes", std::string(7, '\0'), file},
              {30, "header 0", with_length(0, "{}"), file},
              {30, "header beyond the file", with_length(100, "{}"), file},
              {30, "header 2^63", with_length(std::uint64_t{1} << 63, "{}"), file},
              {30, "header 100 MB", with_length(100'000'001, "{}"), file},
              {31, "begins with a space", file_of(" {}", 0), file},
              {31, "invalid UTF-8", file_of("{\"\xff\":1}", 0), file},
              {31, "text after the JSON", file_of("{}x", 0), file},
              {31, "cut JSON", file_of("{\"a\":", 0), file},
              {32, "depth 10000", file_of("{\"a\":" + deep + "}", 0), file},
              {0, "number too large", file_of("{\"a\":1e999}", 0), file},
          });
}

void spoil_entries(std::vector<spoiled_file>& to, const std::string& file) {
  const auto one = [](const std::string& entry) { return file_of("{\"a\":" + entry + "}", 24); };
  add(to,
      {
          {33, "key twice",
           file_of(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                   R"("a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
                   1),
           file},
          {34, "begin > end", one(R"({"dtype":"F32","shape":[6],"data_offsets":[24,0]})"), "a"},
          {34, "hole", one(R"({"dtype":"F32","shape":[5],"data_offsets":[4,24]})"), "a"},
          {34, "beyond the end", one(R"({"dtype":"F32","shape":[7],"data_offsets":[0,28]})"), "a"},
          {34, "bytes left over", one(R"({"dtype":"F32","shape":[5],"data_offsets":[0,20]})"),
           file},
          {34, "overlap",
           file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                   R"("b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
                   12),
           "b"},
          {35, "shape wraps to 4",
           one(R"({"dtype":"U8","shape":[4194305,4194305,211106198978564],"data_offsets":[0,4]})"),
           "a"},
          {36, "unknown dtype", one(R"({"dtype":"F7","shape":[6],"data_offsets":[0,24]})"), "a"},
          {36, "no dtype", one(R"({"shape":[6],"data_offsets":[0,24]})"), "a"},
          {36, "size differs", one(R"({"dtype":"F32","shape":[5],"data_offsets":[0,24]})"), "a"},
          {36, "negative extent", one(R"({"dtype":"F32","shape":[-6],"data_offsets":[0,24]})"),
           "a"},
          {34, "three offsets", one(R"({"dtype":"F32","shape":[6],"data_offsets":[0,24,24]})"),
           "a"},
          {36, "entry is a number", one("7"), "a"},
          {37, "metadata is a list", file_of(R"({"__metadata__":[]})", 0), file},
          {37, "metadata holds a number", file_of(R"({"__metadata__":{"a":1}})", 0), file},
          {36, "dtype is a number", one(R"({"dtype":7,"shape":[6],"data_offsets":[0,24]})"), "a"},
          {34, "an empty tensor inside another",
           file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                   R"("b":{"dtype":"F32","shape":[0],"data_offsets":[4,4]}})",
                   8),
           "b"},
      });
}

}  // namespace

std::string good_safetensors() {
  return file_of(good, 32);
}

std::vector<spoiled_file> spoiled_safetensors(const std::string& name) {
  std::vector<spoiled_file> all;
  spoil_header(all, name);
  spoil_entries(all, name);
  return all;
}

json tokenizer_document() {
  return json::parse(R"({
    "added_tokens": [{"id": 0, "content": "</s>", "special": true}],
    "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
    "post_processor": null,
    "model": {"type": "BPE", "vocab": {"</s>": 0, "a": 1, "b": 2, "ab": 3}, "merges": ["a b"]}})");
}

std::vector<spoiled_file> spoiled_tokenizers() {
  const std::vector<document_row> table{
      {39, "an id twice", "model.vocab", [](json& d) { d["model"]["vocab"]["b"] = 1; }},
      {39, "a gap", "model.vocab", [](json& d) { d["model"]["vocab"]["b"] = 4; }},
      {39, "id 2^31", "model.vocab", [](json& d) { d["model"]["vocab"]["b"] = 2147483648u; }},
      {39, "id -1", "model.vocab", [](json& d) { d["model"]["vocab"]["b"] = -1; }},
      {39, "more tokens than rows", "model.vocab", [](json& d) { d["model"]["vocab"]["c"] = 4; }},
      {39, "vocab is a list", "model.vocab", [](json& d) { d["model"]["vocab"] = json::array(); }},
      {26, "merge of strangers", "merges", [](json& d) { d["model"]["merges"][0] = "a zz"; }},
      {26, "merge of one", "model.merges", [](json& d) { d["model"]["merges"][0] = "ab"; }},
      {26, "merge list of one", "model.merges",
       [](json& d) { d["model"]["merges"][0] = json::array({"a"}); }},
      {0, "unigram", "model.type", [](json& d) { d["model"]["type"] = "Unigram"; },
       errc::unsupported},
      {42, "empty added token", "added_tokens",
       [](json& d) { d["added_tokens"][0]["content"] = ""; }},
      {0, "lstrip", "added_tokens", [](json& d) { d["added_tokens"][0]["lstrip"] = true; },
       errc::unsupported},
      {39, "id as text", "added_tokens", [](json& d) { d["added_tokens"][0]["id"] = "0"; }},
      {0, "normalizer", "normalizer",
       [](json& d) {
         d["normalizer"] = {{"type", "Lowercase"}};
       },
       errc::unsupported},
      {41, "pattern that backtracks", "pre_tokenizer.pattern",
       [](json& d) {
         d["pre_tokenizer"] = {
             {"type", "Split"}, {"pattern", {{"Regex", "(a+)+$"}}}, {"behavior", "Isolated"}};
         d["pre_tokenizer"] = {
             {"type", "Sequence"},
             {"pretokenizers",
              {d["pre_tokenizer"], {{"type", "ByteLevel"}, {"use_regex", false}}}}};
       },
       errc::unsupported},
      {0, "no regex", "pre_tokenizer", [](json& d) { d["pre_tokenizer"]["use_regex"] = false; },
       errc::unsupported},
      {0, "post-processor", "post_processor",
       [](json& d) {
         d["post_processor"] = {{"type", "BertProcessing"}};
       },
       errc::unsupported},
      {0, "special token of nobody", "post_processor.special_tokens",
       [](json& d) {
         d["post_processor"] = {{"type", "TemplateProcessing"},
                                {"single", {{{"SpecialToken", {{"id", "<s>"}}}}}}};
       }},
  };
  std::vector<spoiled_file> all;
  for (const document_row& each : table) {
    json document = tokenizer_document();
    each.spoil(document);
    all.push_back({each.entry, each.what, bytes_of(document.dump()),
                   std::string("tokenizer.json ") + each.field, each.code});
  }
  return all;
}

}  // namespace foretoken::model
