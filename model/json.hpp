// SPDX-License-Identifier: Apache-2.0
#pragma once
// JSON from files: bounded depth, no duplicate keys, and errors as results. The only place of this
// folder where the JSON library can throw.

#include <span>
#include <string>

#include <nlohmann/json.hpp>

#include "base/result.hpp"
#include "model/key_reader.hpp"

namespace foretoken::model {

using json = nlohmann::json;

inline constexpr int json_depth_max = 64;

// `name` of the document is the field of every error.
result<json> parse_json(std::span<const std::byte> text, const std::string& name);

// The member of an object, or null when absent, null, or `object` is not an object.
const json* member(const json& object, const std::string& key);

// Scalars of one object. Nested members by "outer.inner".
class json_reader final : public key_reader {
 public:
  explicit json_reader(const json& object) : object_(object) {}
  const json* find(const std::string& path) const;

 protected:
  result<scalar> fetch(const std::string& key) const override;

 private:
  const json& object_;
};

}  // namespace foretoken::model
