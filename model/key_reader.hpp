// SPDX-License-Identifier: Apache-2.0
#pragma once
// Reads named numbers out of a file's metadata, whatever the format, and keeps the first thing that
// was wrong, so that a loader states what it wants line by line and checks once at the end.

#include <cstdint>
#include <optional>
#include <string>
#include <variant>

#include "base/result.hpp"

namespace foretoken::model {

using scalar = std::variant<std::monostate, std::int64_t, double, bool, std::string>;

class key_reader {
 public:
  virtual ~key_reader() = default;
  // A missing key without a fallback, a wrong type and a value outside [low, high] are failures.
  int integer(const std::string& key,
              std::int64_t low,
              std::int64_t high,
              std::optional<int> fallback = {});
  double real(const std::string& key, double low, double high, std::optional<double> fallback = {});
  bool flag(const std::string& key, bool fallback);
  std::string text(const std::string& key, const std::optional<std::string>& fallback = {});
  bool has(const std::string& key);

  void fail(error failure);
  bool failed() const noexcept { return failure_.has_value(); }
  status outcome() const;

 protected:
  // monostate when absent (or null).
  virtual result<scalar> fetch(const std::string& key) const = 0;

 private:
  scalar get(const std::string& key, bool required);
  std::optional<error> failure_;
};

}  // namespace foretoken::model
