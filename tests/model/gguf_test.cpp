// SPDX-License-Identifier: Apache-2.0
// Every way we know to spoil a GGUF file, each with the field its error must name.
#include <limits>
#include <random>

#include <doctest/doctest.h>

#include "tests/model/gguf_writer.hpp"

using namespace foretoken;
using namespace foretoken::model;

namespace {

struct spoiled {
  const char* what;
  std::function<void(written_gguf&)> spoil;
  const char* field;
};

void check_refused(const std::vector<spoiled>& table) {
  for (const auto& one : table) {
    CAPTURE(one.what);
    auto file = small_gguf();
    one.spoil(file);
    const auto read = read_whole_gguf(file.bytes());
    REQUIRE(!read);
    CHECK((read.error().code == errc::corrupt || read.error().code == errc::unsupported));
    CHECK(read.error().field == one.field);
  }
}

written_value raw_value(std::uint32_t type, const byte_writer& bytes) {
  return {type, bytes.bytes};
}

}  // namespace

TEST_CASE("gguf: the small file is valid in versions 2 and 3") {
  for (const std::uint32_t version : {2u, 3u}) {
    auto file = small_gguf();
    file.version = version;
    const auto read = read_whole_gguf(file.bytes());
    if (!read) FAIL(to_string(read.error()));
  }
}

TEST_CASE("gguf: a broken header is refused") {
  using f = written_gguf;
  check_refused({
      {"magic", [](f& g) { g.magic = "FUGG"; }, "magic"},
      {"version 0", [](f& g) { g.version = 0; }, "version"},
      {"version 1", [](f& g) { g.version = 1; }, "version"},
      {"version 4", [](f& g) { g.version = 4; }, "version"},
      {"big-endian", [](f& g) { g.version = 0x03000000; }, "version"},
      {"tensor count", [](f& g) { g.claimed_tensors = UINT64_MAX - 1; }, "tensor_count"},
      {"key count", [](f& g) { g.claimed_keys = std::uint64_t{1} << 63; }, "metadata_kv_count"},
      {"empty key", [](f& g) { g.keys[0].first = ""; }, "metadata key 0"},
      {"key twice", [](f& g) { g.keys.push_back(g.keys[1]); }, "llama.block_count"},
  });
  CHECK(read_whole_gguf({}).error().field == "magic");
  byte_writer long_key;
  long_key.raw("GGUF").put<std::uint32_t>(3).put<std::uint64_t>(0).put<std::uint64_t>(1);
  long_key.put<std::uint64_t>(UINT64_MAX).raw("0123456789");
  CHECK(read_whole_gguf(long_key.bytes).error().field == "metadata key 0");
}

TEST_CASE("gguf: a broken value is refused") {
  using f = written_gguf;
  const auto huge = std::uint64_t{1} << 62;
  check_refused({
      {"type 13",
       [](f& g) {
         g.set("x", {13, {}});
       },
       "x"},
      {"type 255",
       [](f& g) {
         g.set("x", {255, {}});
       },
       "x"},
      {"array of arrays",
       [](f& g) { g.set("x", raw_value(9, byte_writer().put(9u).put<std::uint64_t>(1))); }, "x"},
      {"array of type 77",
       [](f& g) { g.set("x", raw_value(9, byte_writer().put(77u).put<std::uint64_t>(1))); }, "x"},
      {"array length",
       [=](f& g) { g.set("x", raw_value(9, byte_writer().put(4u).put<std::uint64_t>(huge))); },
       "x"},
      {"texts length",
       [=](f& g) { g.set("x", raw_value(9, byte_writer().put(8u).put<std::uint64_t>(huge))); },
       "x"},
      {"text length",
       [=](f& g) { g.set("x", raw_value(8, byte_writer().put<std::uint64_t>(huge))); }, "x"},
      {"boolean 2", [](f& g) { g.set("x", raw_value(7, byte_writer().put<std::uint8_t>(2))); },
       "x"},
      {"alignment 0", [](f& g) { g.set("general.alignment", u32(0)); }, "general.alignment"},
      {"alignment 13", [](f& g) { g.set("general.alignment", u32(13)); }, "general.alignment"},
      {"alignment 2^31", [](f& g) { g.set("general.alignment", u32(1u << 31)); },
       "general.alignment"},
      {"alignment signed", [](f& g) { g.set("general.alignment", i32(32)); }, "general.alignment"},
  });
}

TEST_CASE("gguf: a broken tensor table is refused") {
  using f = written_gguf;
  const char* q = "blk.0.attn_q.weight";
  const auto dims = [=](std::vector<std::uint64_t> list) {
    return [=](f& g) { g.tensor(q).dimensions = list; };
  };
  const auto type = [=](std::uint32_t number) { return [=](f& g) { g.tensor(q).type = number; }; };
  const std::string long_name(4096, 'n');
  check_refused({
      {"no dimensions", dims({}), q},
      {"5 dimensions", dims({1, 1, 1, 1, 1}), q},
      {"dimension 0", dims({8, 0}), q},
      {"negative dimension", dims({8, UINT64_MAX}), q},
      {"product wraps", dims({0x7FFFFFFFFFFFFFC0, 0x7FFFFFFFFFFFFFC0}), q},
      {"bytes wrap", dims({std::uint64_t{1} << 40, std::uint64_t{1} << 22}), q},
      {"rows are not blocks", type(2), q},
      {"type 4", type(4), q},
      {"type 5", type(5), q},
      {"type 999", type(999), q},
      {"type IQ2_XXS", type(16), q},
      {"other shape", dims({4, 16}), q},
      {"unaligned", [=](f& g) { g.tensor(q).offset += 1; }, q},
      {"beyond the end", [=](f& g) { g.tensor(q).offset = std::uint64_t{1} << 40; }, q},
      {"offset wraps", [=](f& g) { g.tensor(q).offset = UINT64_MAX - 31; }, q},
      {"overlap", [=](f& g) { g.tensor("output_norm.weight").offset = 32; }, "output_norm.weight"},
      {"name twice", [=](f& g) { g.tensor("blk.0.attn_k.weight").name = "blk.0.attn_v.weight"; },
       "blk.0.attn_v.weight"},
      {"long name", [=](f& g) { g.tensors[1].name = long_name; }, "tensor 1"},
      {"no name", [](f& g) { g.tensors[1].name = ""; }, "tensor 1"},
      {"missing", [](f& g) { g.tensor("output_norm.weight").name = "x"; }, "output_norm.weight"},
      {"one too many", [](f& g) { g.add_f32("blk.0.surprise.weight", {8}); },
       "blk.0.surprise.weight"},
  });
}

TEST_CASE("gguf: impossible hyperparameters are refused") {
  using f = written_gguf;
  const auto set = [](const char* key, const written_value& value) {
    return [=](f& g) { g.set(key, value); };
  };
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const char* eps = "llama.attention.layer_norm_rms_epsilon";
  check_refused({
      {"architecture", set("general.architecture", words("mamba")), "general.architecture"},
      {"no architecture", [](f& g) { g.drop("general.architecture"); }, "general.architecture"},
      {"2^31 layers", set("llama.block_count", u32(1u << 31)), "llama.block_count"},
      {"2 layers", set("llama.block_count", u32(2)), "blk.1.attn_norm.weight"},
      {"no heads", set("llama.attention.head_count", u32(0)), "llama.attention.head_count"},
      {"uneven heads", set("llama.attention.head_count_kv", u32(2)), "blk.0.attn_k.weight"},
      {"kv heads", set("llama.attention.head_count_kv", u32(3)), "head_count_kv"},
      {"context", set("llama.context_length", u32(0)), "llama.context_length"},
      {"rope NaN", set("llama.rope.freq_base", f32(nan)), "llama.rope.freq_base"},
      {"epsilon", set(eps, f32(-1)), eps},
      {"epsilon as text", set(eps, words("1e-5")), eps},
      {"yarn", set("llama.rope.scaling.type", words("yarn")), "llama.rope.scaling.type"},
      {"experts", set("llama.expert_count", u32(8)), "llama.expert_count"},
      {"odd rotation", set("llama.rope.dimension_count", u32(3)), "llama.rope.dimension_count"},
  });
}

TEST_CASE("gguf: a broken vocabulary is refused") {
  using f = written_gguf;
  const auto set = [](const char* name, const written_value& value) {
    return [=](f& g) { g.set(std::string("tokenizer.ggml.") + name, value); };
  };
  const auto sentencepiece = [](f& g) {
    g.set("tokenizer.ggml.model", words("llama"));
    g.set("tokenizer.ggml.scores", list_of<float>(6, std::vector<float>(8)));
  };
  const auto byte_token = [=](const char* text) {
    return [=](f& g) {
      sentencepiece(g);
      g.set("tokenizer.ggml.tokens", list_of_words({"</s>", text, "b", "c", "d", "e", "f", "g"}));
      g.set("tokenizer.ggml.token_type", list_of<std::int32_t>(5, {3, 6, 1, 1, 1, 1, 1, 1}));
    };
  };
  check_refused({
      {"few tokens", set("tokens", list_of_words({"a", "b", "ab"})), "tokenizer.ggml.tokens"},
      {"tokens of numbers", set("tokens", list_of<std::int32_t>(5, {1})), "tokenizer.ggml.tokens"},
      {"bos", set("bos_token_id", u32(8)), "tokenizer.ggml.bos_token_id"},
      {"eos -1", set("eos_token_id", i32(-1)), "tokenizer.ggml.eos_token_id"},
      {"pad 2^32-1", set("padding_token_id", u32(UINT32_MAX)), "tokenizer.ggml.padding_token_id"},
      {"kind 7", set("token_type", list_of<std::int32_t>(5, {3, 1, 1, 1, 1, 1, 1, 7})),
       "tokenizer.ggml.token_type"},
      {"few kinds", set("token_type", list_of<std::int32_t>(5, {3})), "tokenizer.ggml.token_type"},
      {"merge of strangers", set("merges", list_of_words({"a zz"})), "tokenizer.ggml.merges"},
      {"merge of one", set("merges", list_of_words({"ab"})), "tokenizer.ggml.merges"},
      {"no merges", [](f& g) { g.drop("tokenizer.ggml.merges"); }, "tokenizer.ggml.merges"},
      {"pre", set("pre", words("(a+)+$")), "tokenizer.ggml.pre"},
      {"model", set("model", words("bert")), "tokenizer.ggml.model"},
      {"no scores", set("model", words("llama")), "tokenizer.ggml.scores"},
      {"scores as bytes",
       [=](f& g) {
         sentencepiece(g);
         g.set("tokenizer.ggml.scores", list_of<std::uint8_t>(0, std::vector<std::uint8_t>(8)));
       },
       "tokenizer.ggml.scores"},
      {"byte <0x-1>", byte_token("<0x-1>"), "tokenizer.ggml.tokens"},
      {"byte <0xZZ>", byte_token("<0xZZ>"), "tokenizer.ggml.tokens"},
  });
  auto good = small_gguf();
  byte_token("<0x41>")(good);
  CHECK(read_whole_gguf(good.bytes()));
}

TEST_CASE("gguf: a file cut anywhere is refused") {
  std::size_t header = 0;
  const auto bytes = small_gguf().bytes(&header);
  const std::span<const std::byte> all(bytes);
  for (std::size_t length = 0; length < header; ++length) {
    CAPTURE(length);
    // A copy of exactly this length, so that a sanitizer sees the first byte beyond it.
    const std::vector<std::byte> cut(all.begin(),
                                     all.begin() + static_cast<std::ptrdiff_t>(length));
    REQUIRE(!read_whole_gguf(cut));
  }
  std::mt19937 random(1);
  for (int i = 0; i < 200; ++i) {
    const auto length = header + random() % (bytes.size() - header - 32);
    const std::vector<std::byte> cut(all.begin(),
                                     all.begin() + static_cast<std::ptrdiff_t>(length));
    REQUIRE(!read_whole_gguf(cut));
  }
}

TEST_CASE("gguf: random mutations never crash") {
  const auto bytes = small_gguf().bytes();
  std::mt19937 random(2);
  int accepted = 0;
  for (int round = 0; round < 6000; ++round) {
    auto mutated = bytes;
    for (unsigned change = 0; change <= random() % 4; ++change) {
      mutated[random() % mutated.size()] = static_cast<std::byte>(random());
    }
    if (round % 7 == 0) mutated.resize(random() % mutated.size());
    if (read_whole_gguf(mutated)) ++accepted;
  }
  CHECK(accepted > 0);     // changes in weights and names of no importance
  CHECK(accepted < 6000);  // and most of the header matters
}
