// SPDX-License-Identifier: Apache-2.0
#include "model/gguf.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>
#include <optional>

#include "base/checked.hpp"

namespace foretoken::model {
namespace {

constexpr std::uint64_t string_bytes_max = std::uint64_t{16} << 20;
constexpr std::uint64_t metadata_bytes_max = std::uint64_t{256} << 20;
constexpr std::uint64_t name_bytes_max = 256;
constexpr std::uint64_t key_bytes_max = 65535;
// Far above any real file; the books kept of each are several times its record in the file.
constexpr std::uint64_t keys_max = std::uint64_t{1} << 16;
constexpr std::uint64_t tensors_max = std::uint64_t{1} << 20;
constexpr std::uint64_t integers_max = std::uint64_t{1} << 24;  // of one array: 8 bytes each
constexpr std::uint64_t key_record_bytes_min = 14;              // length, 1 character, type, 1 byte
constexpr std::uint64_t tensor_record_bytes_min =
    33;  // length, 1 character, 1 dimension, type, offset

// Bytes of one scalar; 0 for text and arrays.
std::uint64_t scalar_bytes(gguf_type type) noexcept {
  switch (type) {
    case gguf_type::u8:
    case gguf_type::i8:
    case gguf_type::boolean: return 1;
    case gguf_type::u16:
    case gguf_type::i16: return 2;
    case gguf_type::u32:
    case gguf_type::i32:
    case gguf_type::f32: return 4;
    case gguf_type::u64:
    case gguf_type::i64:
    case gguf_type::f64: return 8;
    case gguf_type::string:
    case gguf_type::array: return 0;
  }
  return 0;
}

template <class T>
T load(const std::byte* at) noexcept {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

std::string_view as_text(std::span<const std::byte> bytes) noexcept {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

class cursor {
 public:
  explicit cursor(std::span<const std::byte> file) : file_(file) {}
  std::uint64_t left() const noexcept { return file_.size() - at_; }
  std::uint64_t at() const noexcept { return at_; }

  template <class T>
  bool take(T& out) noexcept {
    if (left() < sizeof(T)) return false;
    out = load<T>(file_.data() + at_);
    at_ += sizeof(T);
    return true;
  }
  bool take(std::uint64_t count, std::span<const std::byte>& out) noexcept {
    if (left() < count) return false;
    out = file_.subspan(at_, count);
    at_ += count;
    return true;
  }

 private:
  std::span<const std::byte> file_;
  std::uint64_t at_ = 0;
};

error truncated(std::string field) {
  return corrupt(std::move(field), "the file ends inside this");
}

struct header {
  std::uint32_t version = 0;
  std::uint64_t tensors = 0, keys = 0;
};

// What a file claims to hold, against our bound and the room that the file has.
status check_count(const char* field,
                   std::uint64_t count,
                   std::uint64_t count_max,
                   std::uint64_t room) {
  if (count > room) return corrupt(field, "more than the file has room for");
  if (count > count_max) return corrupt(field, "more than " + std::to_string(count_max));
  return {};
}

result<header> read_header(cursor& in) {
  std::span<const std::byte> magic;
  if (!in.take(4, magic)) return truncated("magic");
  if (as_text(magic) != "GGUF") return corrupt("magic", "this is not a GGUF file");
  header out;
  if (!in.take(out.version)) return truncated("version");
  if (out.version != 0 && (out.version & 0xFFFFu) == 0) {
    return unsupported("version", "the file is in big-endian byte order");
  }
  if (out.version != 2 && out.version != 3) {
    return unsupported(
        "version", "GGUF version " + std::to_string(out.version) + " is not known; 2 and 3 are");
  }
  if (!in.take(out.tensors)) return truncated("tensor_count");
  if (!in.take(out.keys)) return truncated("metadata_kv_count");
  FORETOKEN_TRY(
      check_count("metadata_kv_count", out.keys, keys_max, in.left() / key_record_bytes_min));
  FORETOKEN_TRY(
      check_count("tensor_count", out.tensors, tensors_max, in.left() / tensor_record_bytes_min));
  return out;
}

result<std::string_view> read_text(cursor& in, const std::string& field, std::uint64_t bytes_max) {
  std::uint64_t length = 0;
  if (!in.take(length)) return truncated(field);
  if (length > bytes_max) return corrupt(field, "a text is longer than allowed");
  std::span<const std::byte> bytes;
  if (!in.take(length, bytes)) return truncated(field);
  return as_text(bytes);
}

result<gguf_type> read_type(cursor& in, const std::string& field) {
  std::uint32_t raw = 0;
  if (!in.take(raw)) return truncated(field);
  if (raw > static_cast<std::uint32_t>(gguf_type::f64)) {
    return corrupt(field, "value type " + std::to_string(raw) + " does not exist");
  }
  return static_cast<gguf_type>(raw);
}

status check_booleans(std::span<const std::byte> bytes, const std::string& field) {
  for (const std::byte b : bytes) {
    if (std::to_integer<int>(b) > 1) return corrupt(field, "a boolean is neither 0 nor 1");
  }
  return {};
}

result<gguf_value> read_array(cursor& in,
                              std::span<const std::byte> file,
                              const std::string& field) {
  gguf_value value{.type = gguf_type::array, .element = {}, .count = 0, .bytes = {}};
  const auto element = read_type(in, field);
  if (!element) return element.error();
  if (*element == gguf_type::array) return corrupt(field, "arrays of arrays are not allowed");
  value.element = *element;
  if (!in.take(value.count)) return truncated(field);
  const std::uint64_t size = scalar_bytes(*element);
  const std::uint64_t room = std::min(in.left(), metadata_bytes_max);
  if (value.count > room / (size != 0 ? size : 8)) {
    return corrupt(field, "the array is longer than the file, or than 256 MiB");
  }
  if (size != 0) {
    if (!in.take(value.count * size, value.bytes)) return truncated(field);
    if (*element == gguf_type::boolean) FORETOKEN_TRY(check_booleans(value.bytes, field));
    return value;
  }
  const std::uint64_t start = in.at();
  for (std::uint64_t i = 0; i < value.count; ++i) {
    FORETOKEN_TRY(read_text(in, field, string_bytes_max));
  }
  value.bytes = file.subspan(start, in.at() - start);
  return value;
}

result<gguf_value> read_value(cursor& in,
                              std::span<const std::byte> file,
                              const std::string& field) {
  const auto type = read_type(in, field);
  if (!type) return type.error();
  if (*type == gguf_type::array) return read_array(in, file, field);
  gguf_value value{.type = *type, .element = {}, .count = 0, .bytes = {}};
  if (*type == gguf_type::string) {
    const auto text = read_text(in, field, string_bytes_max);
    if (!text) return text.error();
    value.bytes = std::as_bytes(std::span(*text));
    return value;
  }
  if (!in.take(scalar_bytes(*type), value.bytes)) return truncated(field);
  if (*type == gguf_type::boolean) FORETOKEN_TRY(check_booleans(value.bytes, field));
  return value;
}

status read_metadata(cursor& in,
                     std::span<const std::byte> file,
                     std::uint64_t keys,
                     gguf_contents& out) {
  for (std::uint64_t i = 0; i < keys; ++i) {
    const auto key = read_text(in, "metadata key " + std::to_string(i), key_bytes_max);
    if (!key) return key.error();
    if (key->empty()) return corrupt("metadata key " + std::to_string(i), "the key is empty");
    const std::string name(*key);
    const auto value = read_value(in, file, name);
    if (!value) return value.error();
    if (!out.metadata.emplace(name, *value).second) return corrupt(name, "this key occurs twice");
    if (in.at() > metadata_bytes_max) return corrupt(name, "the metadata is larger than 256 MiB");
  }
  return {};
}

result<std::uint64_t> read_alignment(const gguf_contents& from) {
  const auto found = from.metadata.find("general.alignment");
  if (found == from.metadata.end()) return std::uint64_t{32};
  if (found->second.type != gguf_type::u32) {
    return corrupt("general.alignment", "this key must be an unsigned 32-bit number");
  }
  const auto alignment = load<std::uint32_t>(found->second.bytes.data());
  if (!std::has_single_bit(alignment) || alignment < 8 || alignment > 65536) {
    return corrupt("general.alignment", "this must be a power of two from 8 to 65536");
  }
  return std::uint64_t{alignment};
}

// Number of a tensor type in the file; a well-formed type that we lack is `unsupported`.
result<dtype> tensor_type(std::uint32_t raw, const std::string& name) {
  switch (raw) {
    case 0: return dtype::f32;
    case 1: return dtype::f16;
    case 2: return dtype::q4_0;
    case 3: return dtype::q4_1;
    case 6: return dtype::q5_0;
    case 7: return dtype::q5_1;
    case 8: return dtype::q8_0;
    case 10: return dtype::q2_k;
    case 11: return dtype::q3_k;
    case 12: return dtype::q4_k;
    case 13: return dtype::q5_k;
    case 14: return dtype::q6_k;
    case 30: return dtype::bf16;
    default: break;
  }
  const bool removed = raw == 4 || raw == 5 || (raw >= 31 && raw <= 33) || (raw >= 36 && raw <= 38);
  const std::string text = "tensor type " + std::to_string(raw);
  if (removed || raw > 40) return corrupt(name, text + " does not exist");
  return unsupported(name, text + " is not one of F32, F16, BF16, Q4_0..Q8_0, Q2_K..Q6_K");
}

struct placed_tensor {
  std::string name;
  stored_tensor tensor;
  std::uint64_t offset = 0, size = 0;
};

result<std::vector<std::uint64_t>> read_shape(cursor& in, const std::string& name) {
  std::uint32_t dimensions = 0;
  if (!in.take(dimensions)) return truncated(name);
  if (dimensions < 1 || dimensions > 4) return corrupt(name, "a tensor has 1 to 4 dimensions");
  std::vector<std::uint64_t> shape(dimensions);
  for (auto& extent : shape) {
    if (!in.take(extent)) return truncated(name);
    if (extent == 0 || extent > INT64_MAX) return corrupt(name, "a dimension is zero or negative");
  }
  std::reverse(shape.begin(), shape.end());  // the file lists the innermost first
  return shape;
}

result<placed_tensor> read_tensor(cursor& in, std::uint64_t index) {
  placed_tensor out;
  const auto name = read_text(in, "tensor " + std::to_string(index), name_bytes_max);
  if (!name) return name.error();
  if (name->empty()) return corrupt("tensor " + std::to_string(index), "the name is empty");
  out.name = *name;
  auto shape = read_shape(in, out.name);
  if (!shape) return shape.error();
  std::uint32_t raw_type = 0;
  if (!in.take(raw_type) || !in.take(out.offset)) return truncated(out.name);
  const auto type = tensor_type(raw_type, out.name);
  if (!type) return type.error();
  std::optional<std::uint64_t> values = 1;
  for (const auto extent : *shape) {
    if (values) values = checked_mul(*values, extent);
  }
  if (!values || *values > INT64_MAX) return corrupt(out.name, "the dimensions overflow");
  const auto per_block = static_cast<std::uint64_t>(block_values(*type));
  if (shape->back() % per_block != 0) {
    return corrupt(out.name, std::string("rows are not whole blocks of ") + dtype_name(*type));
  }
  const auto size = checked_mul(*values / per_block, block_bytes(*type));
  if (!size) return corrupt(out.name, "the dimensions overflow");
  out.size = *size;
  out.tensor = {*type, dtype_name(*type), std::move(*shape), {}};
  return out;
}

status place_tensors(std::vector<placed_tensor> list,
                     std::span<const std::byte> data,
                     std::uint64_t alignment,
                     gguf_contents& out) {
  std::sort(list.begin(), list.end(),
            [](const placed_tensor& a, const placed_tensor& b) { return a.offset < b.offset; });
  std::uint64_t end = 0;
  for (auto& placed : list) {
    if (placed.offset % alignment != 0) return corrupt(placed.name, "the offset is not aligned");
    if (placed.offset > data.size() || placed.size > data.size() - placed.offset) {
      return corrupt(placed.name, "the tensor lies beyond the end of the file");
    }
    if (placed.offset < end) return corrupt(placed.name, "the tensor overlaps another one");
    end = placed.offset + placed.size;
    placed.tensor.bytes = data.subspan(placed.offset, placed.size);
    const std::string name = placed.name;
    if (!out.tensors.add(std::move(placed.name), std::move(placed.tensor))) {
      return corrupt(name, "this tensor occurs twice");
    }
  }
  return {};
}

const gguf_value* array_of(const gguf_contents& from, std::string_view key) {
  const auto found = from.metadata.find(key);
  return found == from.metadata.end() ? nullptr : &found->second;
}

std::optional<std::int64_t> integer_at(gguf_type type, const std::byte* at) noexcept {
  switch (type) {
    case gguf_type::u8: return load<std::uint8_t>(at);
    case gguf_type::i8: return load<std::int8_t>(at);
    case gguf_type::u16: return load<std::uint16_t>(at);
    case gguf_type::i16: return load<std::int16_t>(at);
    case gguf_type::u32: return load<std::uint32_t>(at);
    case gguf_type::i32: return load<std::int32_t>(at);
    case gguf_type::i64: return load<std::int64_t>(at);
    case gguf_type::u64: {
      const auto value = load<std::uint64_t>(at);
      return value > INT64_MAX ? INT64_MAX : static_cast<std::int64_t>(value);
    }
    default: return std::nullopt;
  }
}

}  // namespace

result<gguf_contents> parse_gguf(std::span<const std::byte> file) {
  cursor in(file);
  const auto head = read_header(in);
  if (!head) return head.error();
  gguf_contents out;
  out.version = head->version;
  FORETOKEN_TRY(read_metadata(in, file, head->keys, out));
  const auto alignment = read_alignment(out);
  if (!alignment) return alignment.error();
  std::vector<placed_tensor> list;  // grows as they are read: a count is only a claim
  for (std::uint64_t i = 0; i < head->tensors; ++i) {
    auto read = read_tensor(in, i);
    if (!read) return read.error();
    list.push_back(std::move(*read));
  }
  out.header_bytes = in.at();
  const std::uint64_t start = (in.at() + *alignment - 1) / *alignment * *alignment;
  const auto data = start <= file.size() ? file.subspan(start) : std::span<const std::byte>{};
  FORETOKEN_TRY(place_tensors(std::move(list), data, *alignment, out));
  return out;
}

result<std::vector<std::string_view>> gguf_strings(const gguf_contents& from,
                                                   std::string_view key) {
  std::vector<std::string_view> out;
  const gguf_value* value = array_of(from, key);
  if (value == nullptr) return out;
  if (value->type != gguf_type::array || value->element != gguf_type::string) {
    return corrupt(std::string(key), "this key must be an array of texts");
  }
  out.reserve(value->count);
  const std::byte* at = value->bytes.data();  // lengths were checked when the file was parsed
  for (std::uint64_t i = 0; i < value->count; ++i) {
    const auto length = load<std::uint64_t>(at);
    out.emplace_back(reinterpret_cast<const char*>(at + 8), length);
    at += 8 + length;
  }
  return out;
}

result<std::vector<float>> gguf_floats(const gguf_contents& from, std::string_view key) {
  std::vector<float> out;
  const gguf_value* value = array_of(from, key);
  if (value == nullptr) return out;
  if (value->type != gguf_type::array || value->element != gguf_type::f32) {
    return corrupt(std::string(key), "this key must be an array of 32-bit floats");
  }
  out.resize(value->count);
  if (!out.empty()) std::memcpy(out.data(), value->bytes.data(), value->bytes.size());
  return out;
}

result<std::vector<std::int64_t>> gguf_integers(const gguf_contents& from, std::string_view key) {
  std::vector<std::int64_t> out;
  const gguf_value* value = array_of(from, key);
  if (value == nullptr) return out;
  const bool whole = value->type == gguf_type::array && scalar_bytes(value->element) != 0 &&
                     value->element != gguf_type::f32 && value->element != gguf_type::f64 &&
                     value->element != gguf_type::boolean;
  if (!whole) return corrupt(std::string(key), "this key must be an array of whole numbers");
  if (value->count > integers_max) return corrupt(std::string(key), "the array is too long");
  out.reserve(value->count);
  const std::uint64_t size = scalar_bytes(value->element);
  for (std::uint64_t i = 0; i < value->count; ++i) {
    out.push_back(*integer_at(value->element, value->bytes.data() + i * size));
  }
  return out;
}

result<scalar> gguf_reader::fetch(const std::string& key) const {
  const gguf_value* value = array_of(from_, key);
  if (value == nullptr) return scalar{};
  const std::byte* at = value->bytes.data();
  switch (value->type) {
    case gguf_type::string: return scalar{std::string(as_text(value->bytes))};
    case gguf_type::boolean: return scalar{std::to_integer<int>(*at) != 0};
    case gguf_type::f32: return scalar{static_cast<double>(load<float>(at))};
    case gguf_type::f64: return scalar{load<double>(at)};
    case gguf_type::array: {  // one number a layer: the same for all, or not ours
      const auto list = gguf_integers(from_, key);
      if (!list) return list.error();
      if (list->empty()) return corrupt(key, "the array is empty");
      if (std::adjacent_find(list->begin(), list->end(), std::not_equal_to<>()) != list->end()) {
        return unsupported(key, "layers with different values are not supported");
      }
      return scalar{list->front()};
    }
    default: return scalar{*integer_at(value->type, at)};
  }
}

}  // namespace foretoken::model
