// SPDX-License-Identifier: Apache-2.0
#include "net/json_values.hpp"

#include <cmath>
#include <limits>

namespace foretoken::net {
namespace {
constexpr std::int64_t int_max = std::numeric_limits<std::int32_t>::max();

// NaN when it is no number.
double number_of(const json_value& value) {
  if (const auto* whole = value.integer()) return static_cast<double>(*whole);
  if (const auto* real = std::get_if<double>(&value.data)) return *real;
  return std::numeric_limits<double>::quiet_NaN();
}

}  // namespace

status read_integer(const json_value& value,
                    const std::string& field,
                    std::int64_t low,
                    std::int64_t high,
                    std::int64_t& out) {
  const auto* given = value.integer();
  if (given == nullptr || *given < low || *given > high) {
    return invalid(field, field + " must be an integer from " + std::to_string(low) + " to " +
                              std::to_string(high));
  }
  out = *given;
  return {};
}

// Bounds are [low, high], or (low, high] when `above`.
status read_number(const json_value& value,
                   const std::string& field,
                   double low,
                   double high,
                   bool above,
                   float& out) {
  const double given = number_of(value);
  if (!std::isfinite(given) || given < low || given > high || (above && given <= low)) {
    char text[96];
    std::snprintf(text, sizeof text, " must be a number %s %g and at most %g",
                  above ? "above" : "of at least", low, high);
    return invalid(field, field + text);
  }
  out = static_cast<float>(given);
  if (above && out <= static_cast<float>(low)) return invalid(field, field + " is too small");
  return {};
}

status read_finite(const json_value& value, const std::string& field, float& out) {
  const double given = number_of(value);
  if (!(std::abs(given) <= std::numeric_limits<float>::max())) {
    return invalid(field, field + " must be a number");
  }
  out = static_cast<float>(given);
  return {};
}

status read_bool(const json_value& value, const std::string& field, bool& out) {
  if (value.boolean() == nullptr) return invalid(field, field + " must be true or false");
  out = *value.boolean();
  return {};
}

status read_string(const json_value& value, const std::string& field, std::string& out) {
  if (value.string() == nullptr) return invalid(field, field + " must be a string");
  out = *value.string();
  return {};
}

status refuse(const std::string& field, const char* accepted) {
  return unsupported(field, field + " is not supported; only " + accepted + " is accepted");
}

// --- prompts ---

result<std::vector<token>> read_tokens(const json_array& list, const std::string& field) {
  std::vector<token> ids;
  ids.reserve(list.size());
  for (const auto& item : list) {
    const auto* id = item.integer();
    if (id == nullptr || *id < 0 || *id > int_max) {
      return invalid(field, field + " must hold token ids: integers from 0 up");
    }
    ids.push_back(static_cast<token>(*id));
  }
  return ids;
}

}  // namespace foretoken::net
