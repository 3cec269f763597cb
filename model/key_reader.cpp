// SPDX-License-Identifier: Apache-2.0
#include "model/key_reader.hpp"

#include <cmath>

namespace foretoken::model {

void key_reader::fail(error failure) {
  if (!failure_) failure_ = std::move(failure);
}

status key_reader::outcome() const {
  if (failure_) return *failure_;
  return {};
}

scalar key_reader::get(const std::string& key, bool required) {
  auto found = fetch(key);
  if (!found) {
    fail(std::move(found).error());
    return {};
  }
  if (required && std::holds_alternative<std::monostate>(*found)) {
    fail(corrupt(key, "this key is missing"));
  }
  return std::move(*found);
}

bool key_reader::has(const std::string& key) {
  const auto found = fetch(key);
  return !found || !std::holds_alternative<std::monostate>(*found);
}

int key_reader::integer(const std::string& key,
                        std::int64_t low,
                        std::int64_t high,
                        std::optional<int> fallback) {
  const scalar value = get(key, !fallback);
  if (std::holds_alternative<std::monostate>(value)) return fallback.value_or(0);
  const auto* number = std::get_if<std::int64_t>(&value);
  if (number == nullptr) {
    fail(corrupt(key, "this key must be a whole number"));
    return fallback.value_or(0);
  }
  if (*number < low || *number > high) {
    fail(corrupt(key, std::to_string(*number) + " is not within " + std::to_string(low) + " to " +
                          std::to_string(high)));
    return fallback.value_or(0);
  }
  return static_cast<int>(*number);
}

double key_reader::real(const std::string& key,
                        double low,
                        double high,
                        std::optional<double> fallback) {
  const scalar value = get(key, !fallback);
  double number = 0;
  if (std::holds_alternative<std::monostate>(value)) return fallback.value_or(0);
  if (const auto* real = std::get_if<double>(&value)) {
    number = *real;
  } else if (const auto* whole = std::get_if<std::int64_t>(&value)) {
    number = static_cast<double>(*whole);
  } else {
    fail(corrupt(key, "this key must be a number"));
    return fallback.value_or(0);
  }
  if (!std::isfinite(number) || number < low || number > high) {
    fail(corrupt(key, "this number is not finite or out of range"));
    return fallback.value_or(0);
  }
  return number;
}

bool key_reader::flag(const std::string& key, bool fallback) {
  const scalar value = get(key, false);
  if (std::holds_alternative<std::monostate>(value)) return fallback;
  if (const auto* set = std::get_if<bool>(&value)) return *set;
  fail(corrupt(key, "this key must be true or false"));
  return fallback;
}

std::string key_reader::text(const std::string& key, const std::optional<std::string>& fallback) {
  scalar value = get(key, !fallback);
  if (std::holds_alternative<std::monostate>(value)) return fallback.value_or("");
  if (auto* words = std::get_if<std::string>(&value)) return std::move(*words);
  fail(corrupt(key, "this key must be text"));
  return fallback.value_or("");
}

}  // namespace foretoken::model
