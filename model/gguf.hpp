// SPDX-License-Identifier: Apache-2.0
#pragma once
// GGUF versions 2 and 3: metadata and tensor table over bytes someone else owns. Every count,
// length, offset and alignment is checked against the bytes that are there before anything is
// allocated.

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "model/key_reader.hpp"
#include "model/tensor_store.hpp"

namespace foretoken::model {

enum class gguf_type : std::uint32_t {
  u8,
  i8,
  u16,
  i16,
  u32,
  i32,
  f32,
  boolean,
  string,
  array,
  u64,
  i64,
  f64,
};

// A value as it lies in the file: `bytes` is the number, the text, or the array's elements.
struct gguf_value {
  gguf_type type = gguf_type::u8;
  gguf_type element = gguf_type::u8;  // of an array
  std::uint64_t count = 0;            // of an array
  std::span<const std::byte> bytes;
};

struct gguf_contents {
  std::uint32_t version = 0;
  std::map<std::string, gguf_value, std::less<>> metadata;
  tensor_store tensors;            // views into the parsed bytes
  std::uint64_t header_bytes = 0;  // metadata and tensor table, without what pads them
};

// Errors: corrupt and unsupported; `field` names the key, tensor or header field.
result<gguf_contents> parse_gguf(std::span<const std::byte> file);

// Typed views of metadata. REQUIRES bytes that outlive the views. An absent key gives an empty
// array.
result<std::vector<std::string_view>> gguf_strings(const gguf_contents& from, std::string_view key);
result<std::vector<float>> gguf_floats(const gguf_contents& from, std::string_view key);
result<std::vector<std::int64_t>> gguf_integers(const gguf_contents& from, std::string_view key);

class gguf_reader final : public key_reader {
 public:
  explicit gguf_reader(const gguf_contents& from) : from_(from) {}

 protected:
  result<scalar> fetch(const std::string& key) const override;

 private:
  const gguf_contents& from_;
};

}  // namespace foretoken::model
