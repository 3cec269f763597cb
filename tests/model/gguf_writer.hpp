// SPDX-License-Identifier: Apache-2.0
#pragma once
// Writes GGUF bytes for tests, valid or not: nothing here checks anything.

#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/gguf_model.hpp"
#include "model/tensor_roles.hpp"

namespace foretoken::model {

class byte_writer {
 public:
  template <class T>
  byte_writer& put(T value) {
    const auto* from = reinterpret_cast<const std::byte*>(&value);
    bytes.insert(bytes.end(), from, from + sizeof value);
    return *this;
  }
  byte_writer& raw(std::string_view text) {
    const auto view = std::as_bytes(std::span(text));
    bytes.insert(bytes.end(), view.begin(), view.end());
    return *this;
  }
  byte_writer& text(std::string_view text) { return put<std::uint64_t>(text.size()).raw(text); }
  std::vector<std::byte> bytes;
};

// A metadata value: its type number and its bytes.
struct written_value {
  std::uint32_t type = 0;
  std::vector<std::byte> bytes;
};
inline written_value u32(std::uint32_t v) {
  return {4, byte_writer().put(v).bytes};
}
inline written_value i32(std::int32_t v) {
  return {5, byte_writer().put(v).bytes};
}
inline written_value f32(float v) {
  return {6, byte_writer().put(v).bytes};
}
inline written_value words(std::string_view v) {
  return {8, byte_writer().text(v).bytes};
}
inline written_value list_of_words(const std::vector<std::string>& list) {
  byte_writer out;
  out.put<std::uint32_t>(8).put<std::uint64_t>(list.size());
  for (const auto& word : list) out.text(word);
  return {9, out.bytes};
}
template <class T>
written_value list_of(std::uint32_t type, const std::vector<T>& list) {
  byte_writer out;
  out.put(type).put<std::uint64_t>(list.size());
  for (const T value : list) out.put(value);
  return {9, out.bytes};
}

struct written_tensor {
  std::string name;
  std::vector<std::uint64_t> dimensions;  // innermost first, as in the file
  std::uint32_t type = 0;
  std::uint64_t offset = 0;
  std::optional<std::uint32_t> claimed_dimensions = {};  // none = the true number
};

// A file in parts that a test can spoil one by one.
struct written_gguf {
  std::string magic = "GGUF";
  std::uint32_t version = 3;
  std::vector<std::pair<std::string, written_value>> keys;
  std::vector<written_tensor> tensors;
  std::uint64_t data_bytes = 0, alignment = 32;
  std::uint64_t claimed_tensors = UINT64_MAX, claimed_keys = UINT64_MAX;  // max = the true number

  void set(const std::string& key, written_value value) {
    for (auto& [name, old] : keys) {
      if (name == key) {
        old = std::move(value);
        return;
      }
    }
    keys.emplace_back(key, std::move(value));
  }
  void drop(const std::string& key) {
    std::erase_if(keys, [&](const auto& entry) { return entry.first == key; });
  }
  void add_f32(const std::string& name, std::vector<std::uint64_t> dimensions) {
    std::uint64_t values = 1;
    for (const auto extent : dimensions) values *= extent;
    tensors.push_back({name, std::move(dimensions), 0, data_bytes, {}});
    data_bytes += (values * 4 + alignment - 1) / alignment * alignment;
  }
  written_tensor& tensor(const std::string& name) {
    for (auto& one : tensors) {
      if (one.name == name) return one;
    }
    return tensors.front();
  }

  // `header_bytes` receives where the tensor data begins.
  std::vector<std::byte> bytes(std::size_t* header_bytes = nullptr) const {
    byte_writer out;
    out.raw(magic).put(version);
    out.put<std::uint64_t>(claimed_tensors != UINT64_MAX ? claimed_tensors : tensors.size());
    out.put<std::uint64_t>(claimed_keys != UINT64_MAX ? claimed_keys : keys.size());
    for (const auto& [key, value] : keys) {
      out.text(key).put(value.type);
      out.bytes.insert(out.bytes.end(), value.bytes.begin(), value.bytes.end());
    }
    for (const auto& one : tensors) {
      const auto dimensions = static_cast<std::uint32_t>(one.dimensions.size());
      out.text(one.name).put(one.claimed_dimensions.value_or(dimensions));
      for (const auto extent : one.dimensions) out.put(extent);
      out.put(one.type).put(one.offset);
    }
    if (header_bytes != nullptr) *header_bytes = out.bytes.size();
    out.bytes.resize((out.bytes.size() + alignment - 1) / alignment * alignment);
    for (std::uint64_t i = 0; i < data_bytes; ++i) out.put(static_cast<std::uint8_t>(i % 61));
    return out.bytes;
  }
};

// A llama of one layer and eight tokens.
inline written_gguf small_gguf() {
  written_gguf file;
  file.set("general.architecture", words("llama"));
  file.set("llama.block_count", u32(1));
  file.set("llama.context_length", u32(32));
  file.set("llama.embedding_length", u32(8));
  file.set("llama.feed_forward_length", u32(12));
  file.set("llama.attention.head_count", u32(2));
  file.set("llama.attention.head_count_kv", u32(1));
  file.set("llama.attention.layer_norm_rms_epsilon", f32(1e-5f));
  file.set("tokenizer.ggml.model", words("gpt2"));
  file.set("tokenizer.ggml.pre", words("gpt-2"));
  file.set("tokenizer.ggml.tokens",
           list_of_words({"<|im_end|>", "a", "b", "ab", "c", "d", "e", "f"}));
  file.set("tokenizer.ggml.token_type", list_of<std::int32_t>(5, {3, 1, 1, 1, 1, 1, 1, 1}));
  file.set("tokenizer.ggml.merges", list_of_words({"a b"}));
  file.set("tokenizer.ggml.eos_token_id", u32(0));
  file.add_f32("token_embd.weight", {8, 8});
  file.add_f32("blk.0.attn_norm.weight", {8});
  file.add_f32("blk.0.attn_q.weight", {8, 8});
  file.add_f32("blk.0.attn_k.weight", {8, 4});
  file.add_f32("blk.0.attn_v.weight", {8, 4});
  file.add_f32("blk.0.attn_output.weight", {8, 8});
  file.add_f32("blk.0.ffn_norm.weight", {8});
  file.add_f32("blk.0.ffn_gate.weight", {8, 12});
  file.add_f32("blk.0.ffn_up.weight", {8, 12});
  file.add_f32("blk.0.ffn_down.weight", {12, 8});
  file.add_f32("output_norm.weight", {8});
  return file;
}

// Everything model_file::load does with a GGUF file's bytes.
inline status read_whole_gguf(std::span<const std::byte> bytes) {
  const auto contents = parse_gguf(bytes);
  if (!contents) return contents.error();
  const auto shape = gguf_shape(*contents);
  if (!shape) return shape.error();
  const auto tensors = assemble_gguf(contents->tensors, *shape);
  if (!tensors) return tensors.error();
  const auto vocabulary = gguf_vocabulary(*contents, *shape);
  if (!vocabulary) return vocabulary.error();
  return {};
}

}  // namespace foretoken::model
