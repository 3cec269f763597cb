// SPDX-License-Identifier: Apache-2.0
#include "model/safetensors.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <set>

#include "base/checked.hpp"
#include "model/json.hpp"

namespace foretoken::model {
namespace {

constexpr std::uint64_t header_bytes_max = 100'000'000;

struct storage_type {
  const char* name;
  std::uint64_t bytes;
  std::optional<dtype> type;
};
constexpr std::array<storage_type, 15> storage_types{{{"F32", 4, dtype::f32},
                                                      {"F16", 2, dtype::f16},
                                                      {"BF16", 2, dtype::bf16},
                                                      {"F64", 8, {}},
                                                      {"I64", 8, {}},
                                                      {"I32", 4, {}},
                                                      {"I16", 2, {}},
                                                      {"I8", 1, {}},
                                                      {"U64", 8, {}},
                                                      {"U32", 4, {}},
                                                      {"U16", 2, {}},
                                                      {"U8", 1, {}},
                                                      {"BOOL", 1, {}},
                                                      {"F8_E4M3", 1, {}},
                                                      {"F8_E5M2", 1, {}}}};

struct placed_tensor {
  std::string name;
  stored_tensor tensor;
  std::uint64_t begin = 0, end = 0;
};

result<std::vector<std::uint64_t>> numbers(const json& object,
                                           const char* key,
                                           const std::string& name) {
  const json* list = member(object, key);
  if (list == nullptr || !list->is_array()) {
    return corrupt(name, std::string(key) + " is missing or not an array");
  }
  std::vector<std::uint64_t> out;
  for (const json& item : *list) {
    if (!item.is_number_unsigned()) {
      return corrupt(name, std::string(key) + " holds something that is no whole number");
    }
    out.push_back(item.get<std::uint64_t>());
  }
  return out;
}

result<placed_tensor> read_entry(const std::string& name, const json& entry) {
  placed_tensor out;
  out.name = name;
  const json* type = member(entry, "dtype");
  if (type == nullptr || !type->is_string()) return corrupt(name, "dtype is missing");
  const auto& type_name = type->get_ref<const std::string&>();
  const auto* known = std::find_if(storage_types.begin(), storage_types.end(),
                                   [&](const storage_type& t) { return type_name == t.name; });
  if (known == storage_types.end()) return corrupt(name, "the dtype is not known");
  auto shape = numbers(entry, "shape", name);
  if (!shape) return shape.error();
  const auto offsets = numbers(entry, "data_offsets", name);
  if (!offsets) return offsets.error();
  if (offsets->size() != 2 || (*offsets)[0] > (*offsets)[1]) {
    return corrupt(name, "data_offsets must be a begin and an end not before it");
  }
  std::optional<std::uint64_t> size = known->bytes;
  for (const auto extent : *shape) {
    if (size) size = checked_mul(*size, extent);
  }
  if (!size) return corrupt(name, "the shape overflows");
  out.begin = (*offsets)[0];
  out.end = (*offsets)[1];
  if (out.end - out.begin != *size) return corrupt(name, "shape, dtype and data_offsets disagree");
  out.tensor = {known->type, type_name, std::move(*shape), {}};
  return out;
}

status check_notes(const json& notes, const std::string& name) {
  if (!notes.is_object()) return corrupt(name, "__metadata__ must be an object of texts");
  for (const auto& item : notes.items()) {
    if (!item.value().is_string()) return corrupt(name, "__metadata__ must be an object of texts");
  }
  return {};
}

result<std::span<const std::byte>> header_of(std::span<const std::byte> file,
                                             const std::string& name) {
  if (file.size() < 8) return corrupt(name, "the file is shorter than its header length");
  std::uint64_t length = 0;
  std::memcpy(&length, file.data(), sizeof length);
  if (length == 0) return corrupt(name, "the header is empty");
  if (length > header_bytes_max) return corrupt(name, "the header is larger than 100 MB");
  if (length > file.size() - 8) return corrupt(name, "the header is longer than the file");
  const auto header = file.subspan(8, length);
  if (header.front() != std::byte{'{'}) return corrupt(name, "the header does not begin with {");
  return header;
}

}  // namespace

status parse_safetensors(std::span<const std::byte> file,
                         const std::string& name,
                         tensor_store& out) {
  const auto header = header_of(file, name);
  if (!header) return header.error();
  const auto parsed = parse_json(*header, name);
  if (!parsed) return parsed.error();
  std::vector<placed_tensor> list;
  for (const auto& item : parsed->items()) {
    if (item.key() == "__metadata__") {
      FORETOKEN_TRY(check_notes(item.value(), name));
      continue;
    }
    auto entry = read_entry(item.key(), item.value());
    if (!entry) return entry.error();
    list.push_back(std::move(*entry));
  }
  std::sort(list.begin(), list.end(), [](const placed_tensor& a, const placed_tensor& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
  });
  const auto data = file.subspan(8 + header->size());
  std::uint64_t end = 0;
  for (auto& placed : list) {
    if (placed.begin != end)
      return corrupt(placed.name, "the tensor overlaps another or leaves a hole");
    if (placed.end > data.size())
      return corrupt(placed.name, "the tensor lies beyond the end of the file");
    end = placed.end;
    placed.tensor.bytes = data.subspan(placed.begin, placed.end - placed.begin);
    const std::string tensor_name = placed.name;
    if (!out.add(std::move(placed.name), std::move(placed.tensor))) {
      return corrupt(tensor_name, "this tensor occurs in two files");
    }
  }
  if (end != data.size()) return corrupt(name, "bytes after the last tensor");
  return {};
}

result<std::vector<std::string>> parse_shard_index(std::span<const std::byte> text,
                                                   const std::string& name) {
  const auto parsed = parse_json(text, name);
  if (!parsed) return parsed.error();
  const json* map = member(*parsed, "weight_map");
  if (map == nullptr || !map->is_object() || map->empty()) {
    return corrupt(name, "weight_map is missing or empty");
  }
  std::set<std::string> shards;
  for (const auto& item : map->items()) {
    if (!item.value().is_string()) return corrupt(name, "weight_map must map names to files");
    const auto& shard = item.value().get_ref<const std::string&>();
    const bool plain = shard.ends_with(".safetensors") && !shard.starts_with(".") &&
                       shard.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos;
    if (!plain) return corrupt(name, "a shard is not a plain .safetensors file name");
    shards.insert(shard);
  }
  return std::vector<std::string>(shards.begin(), shards.end());
}

}  // namespace foretoken::model
