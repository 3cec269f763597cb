// SPDX-License-Identifier: Apache-2.0
#include "tests/model/spoiled_gguf.hpp"

#include <limits>

#include "tests/model/gguf_writer.hpp"

namespace foretoken::model {
namespace {

using f = written_gguf;

struct row {
  int entry;
  const char* what;
  std::function<void(written_gguf&)> spoil;
  const char* field;
  errc code = errc::corrupt;
};

void add(std::vector<spoiled_file>& to, const std::vector<row>& rows) {
  for (const row& each : rows) {
    auto file = small_gguf();
    each.spoil(file);
    to.push_back({each.entry, each.what, file.bytes(), each.field, each.code});
  }
}

written_value raw_value(std::uint32_t type, const byte_writer& bytes) {
  return {type, bytes.bytes};
}

void spoil_header(std::vector<spoiled_file>& to) {
  add(to, {
              {2, "magic", [](f& g) { g.magic = "FUGG"; }, "magic"},
              {3, "version 0", [](f& g) { g.version = 0; }, "version", errc::unsupported},
              {3, "version 1", [](f& g) { g.version = 1; }, "version", errc::unsupported},
              {3, "version 4", [](f& g) { g.version = 4; }, "version", errc::unsupported},
              {4, "big-endian", [](f& g) { g.version = 0x03000000; }, "version", errc::unsupported},
              {5, "tensor count", [](f& g) { g.claimed_tensors = UINT64_MAX - 1; }, "tensor_count"},
              {6, "key count", [](f& g) { g.claimed_keys = std::uint64_t{1} << 63; },
               "metadata_kv_count"},
              {8, "empty key", [](f& g) { g.keys[0].first = ""; }, "metadata key 0"},
              {9, "key twice", [](f& g) { g.keys.push_back(g.keys[1]); }, "llama.block_count"},
          });
  to.push_back({1, "empty file", {}, "magic"});
  byte_writer long_key;
  long_key.raw("GGUF").put<std::uint32_t>(3).put<std::uint64_t>(0).put<std::uint64_t>(1);
  long_key.put<std::uint64_t>(UINT64_MAX).raw("0123456789");
  to.push_back({7, "key length 2^64-1", long_key.bytes, "metadata key 0"});
}

void spoil_values(std::vector<spoiled_file>& to) {
  const auto huge = std::uint64_t{1} << 62;
  const auto x = [](std::uint32_t type, const byte_writer& bytes) {
    return [=](f& g) { g.set("x", raw_value(type, bytes)); };
  };
  const auto list = [=](std::uint32_t element, std::uint64_t count) {
    return x(9, byte_writer().put(element).put<std::uint64_t>(count));
  };
  const char* alignment = "general.alignment";
  add(to, {
              {10, "type 13", x(13, {}), "x"},
              {10, "type 255", x(255, {}), "x"},
              {11, "array of arrays", list(9, 1), "x"},
              {10, "array of type 77", list(77, 1), "x"},
              {12, "array length 2^62", list(4, huge), "x"},
              {12, "texts length 2^62", list(8, huge), "x"},
              {13, "text longer than the file", x(8, byte_writer().put<std::uint64_t>(huge)), "x"},
              {0, "boolean 2", x(7, byte_writer().put<std::uint8_t>(2)), "x"},
              {14, "alignment 0", [=](f& g) { g.set(alignment, u32(0)); }, alignment},
              {14, "alignment 13", [=](f& g) { g.set(alignment, u32(13)); }, alignment},
              {14, "alignment 2^31", [=](f& g) { g.set(alignment, u32(1u << 31)); }, alignment},
              {14, "alignment signed", [=](f& g) { g.set(alignment, i32(32)); }, alignment},
          });
}

void spoil_tensors(std::vector<spoiled_file>& to) {
  const char* q = "blk.0.attn_q.weight";
  const auto dims = [=](std::vector<std::uint64_t> list) {
    return [=](f& g) { g.tensor(q).dimensions = list; };
  };
  const auto type = [=](std::uint32_t number) { return [=](f& g) { g.tensor(q).type = number; }; };
  const std::string long_name(4096, 'n');
  add(to,
      {
          {15, "no dimensions", dims({}), q},
          {15, "5 dimensions", dims({1, 1, 1, 1, 1}), q},
          {15, "2^32-1 dimensions", [=](f& g) { g.tensor(q).claimed_dimensions = UINT32_MAX; }, q},
          {16, "dimension 0", dims({8, 0}), q},
          {16, "negative dimension", dims({8, UINT64_MAX}), q},
          {17, "product wraps", dims({0x7FFFFFFFFFFFFFC0, 0x7FFFFFFFFFFFFFC0}), q},
          {17, "bytes wrap", dims({std::uint64_t{1} << 40, std::uint64_t{1} << 22}), q},
          {18, "rows are not blocks", type(2), q},
          {19, "type 4", type(4), q},
          {19, "type 5", type(5), q},
          {19, "type 999", type(999), q},
          {19, "type IQ2_XXS", type(16), q, errc::unsupported},
          {0, "other shape", dims({4, 16}), q},
          {20, "unaligned", [=](f& g) { g.tensor(q).offset += 1; }, q},
          {20, "beyond the end", [=](f& g) { g.tensor(q).offset = std::uint64_t{1} << 40; }, q},
          {20, "offset wraps", [=](f& g) { g.tensor(q).offset = UINT64_MAX - 31; }, q},
          {20, "overlap", [=](f& g) { g.tensor("output_norm.weight").offset = 32; },
           "output_norm.weight"},
          {21, "name twice",
           [=](f& g) { g.tensor("blk.0.attn_k.weight").name = "blk.0.attn_v.weight"; },
           "blk.0.attn_v.weight"},
          {21, "long name", [=](f& g) { g.tensors[1].name = long_name; }, "tensor 1"},
          {0, "no name", [](f& g) { g.tensors[1].name = ""; }, "tensor 1"},
          {0, "missing", [](f& g) { g.tensor("output_norm.weight").name = "x"; },
           "output_norm.weight"},
          {0, "one too many", [](f& g) { g.add_f32("blk.0.surprise.weight", {8}); },
           "blk.0.surprise.weight", errc::unsupported},
      });
}

void spoil_hyperparameters(std::vector<spoiled_file>& to) {
  const auto set = [](const char* key, const written_value& value) {
    return [=](f& g) { g.set(key, value); };
  };
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const char* eps = "llama.attention.layer_norm_rms_epsilon";
  const char* heads = "llama.attention.head_count";
  const char* kv_heads = "llama.attention.head_count_kv";
  const char* scaling = "llama.rope.scaling.type";
  const char* rotated = "llama.rope.dimension_count";
  add(to, {
              {0, "architecture", set("general.architecture", words("mamba")),
               "general.architecture", errc::unsupported},
              {0, "no architecture", [](f& g) { g.drop("general.architecture"); },
               "general.architecture"},
              {27, "2^31 layers", set("llama.block_count", u32(1u << 31)), "llama.block_count"},
              {0, "2 layers", set("llama.block_count", u32(2)), "blk.1.attn_norm.weight"},
              {27, "no heads", set(heads, u32(0)), heads},
              {0, "uneven heads", set(kv_heads, u32(2)), "blk.0.attn_k.weight"},
              {27, "kv heads do not divide heads", set(kv_heads, u32(3)), "head_count_kv"},
              {27, "context 0", set("llama.context_length", u32(0)), "llama.context_length"},
              {27, "rope NaN", set("llama.rope.freq_base", f32(nan)), "llama.rope.freq_base"},
              {27, "epsilon -1", set(eps, f32(-1)), eps},
              {0, "epsilon as text", set(eps, words("1e-5")), eps},
              {0, "yarn", set(scaling, words("yarn")), scaling, errc::unsupported},
              {0, "experts", set("llama.expert_count", u32(8)), "llama.expert_count",
               errc::unsupported},
              {0, "odd rotation", set(rotated, u32(3)), rotated},
          });
}

void spoil_vocabulary(std::vector<spoiled_file>& to) {
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
  const auto kinds = list_of<std::int32_t>(5, {3, 1, 1, 1, 1, 1, 1, 7});
  const auto lack = errc::unsupported;
  add(to,
      {
          {23, "few tokens", set("tokens", list_of_words({"a", "b", "ab"})),
           "tokenizer.ggml.tokens"},
          {0, "tokens of numbers", set("tokens", list_of<std::int32_t>(5, {1})),
           "tokenizer.ggml.tokens"},
          {23, "bos", set("bos_token_id", u32(8)), "tokenizer.ggml.bos_token_id"},
          {23, "eos -1", set("eos_token_id", i32(-1)), "tokenizer.ggml.eos_token_id"},
          {23, "pad 2^32-1", set("padding_token_id", u32(UINT32_MAX)),
           "tokenizer.ggml.padding_token_id"},
          {0, "kind 7", set("token_type", kinds), "tokenizer.ggml.token_type"},
          {0, "few kinds", set("token_type", list_of<std::int32_t>(5, {3})),
           "tokenizer.ggml.token_type"},
          {26, "merge of strangers", set("merges", list_of_words({"a zz"})),
           "tokenizer.ggml.merges"},
          {26, "merge of one", set("merges", list_of_words({"ab"})), "tokenizer.ggml.merges"},
          {0, "no merges", [](f& g) { g.drop("tokenizer.ggml.merges"); }, "tokenizer.ggml.merges"},
          {41, "pre", set("pre", words("(a+)+$")), "tokenizer.ggml.pre", lack},
          {0, "model", set("model", words("bert")), "tokenizer.ggml.model", lack},
          {0, "no scores", set("model", words("llama")), "tokenizer.ggml.scores"},
          {24, "scores as bytes",
           [=](f& g) {
             sentencepiece(g);
             g.set("tokenizer.ggml.scores", list_of<std::uint8_t>(0, std::vector<std::uint8_t>(8)));
           },
           "tokenizer.ggml.scores"},
          {25, "byte <0x-1>", byte_token("<0x-1>"), "tokenizer.ggml.tokens"},
          {25, "byte <0xZZ>", byte_token("<0xZZ>"), "tokenizer.ggml.tokens"},
          {42, "empty user-defined token",
           [=](f& g) {
             g.set("tokenizer.ggml.tokens",
                   list_of_words({"<|im_end|>", "a", "b", "ab", "", "d", "e", "f"}));
             g.set("tokenizer.ggml.token_type", list_of<std::int32_t>(5, {3, 1, 1, 1, 4, 1, 1, 1}));
           },
           "tokenizer.ggml.tokens"},
      });
}

}  // namespace

std::vector<spoiled_file> spoiled_gguf_files() {
  std::vector<spoiled_file> all;
  spoil_header(all);
  spoil_values(all);
  spoil_tensors(all);
  spoil_hyperparameters(all);
  spoil_vocabulary(all);
  return all;
}

}  // namespace foretoken::model
