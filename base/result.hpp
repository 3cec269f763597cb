// SPDX-License-Identifier: Apache-2.0
#pragma once
// result<T>: a value or an error. Same member names as std::expected, which gcc 12 only has in
// C++23.

#include <string>
#include <utility>
#include <variant>

namespace foretoken {

// The closed set of failures. Also the wire code and the metric label (see errc_name).
enum class errc {
  invalid_argument,  // the caller's input is wrong; `field` names it
  not_found,
  unsupported,  // well-formed, but nothing here can honour it
  exhausted,    // a bound was reached; retrying later may help
  cancelled,
  deadline_exceeded,
  corrupt,   // a file or peer sent bytes that break their own format
  device,    // a device failed; retrying may help
  internal,  // our bug
};

// Stable lower-case name: the `code` of wire errors and a metric label.
const char* errc_name(errc code) noexcept;

struct error {
  errc code = errc::internal;
  std::string message;     // one plain sentence for the person who caused it
  std::string field = {};  // the parameter, key, tensor or flag at fault; empty when none
  bool operator==(const error&) const = default;
};

// For messages on a terminal: "field: message" or "message".
std::string to_string(const error& failure);

template <class T>
class [[nodiscard]] result {
 public:
  using value_type = T;
  result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  result(foretoken::error failure) : state_(std::in_place_index<1>, std::move(failure)) {}

  bool has_value() const noexcept { return state_.index() == 0; }
  explicit operator bool() const noexcept { return has_value(); }
  T& value() & { return std::get<0>(state_); }
  const T& value() const& { return std::get<0>(state_); }
  T&& value() && { return std::get<0>(std::move(state_)); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  foretoken::error& error() & { return std::get<1>(state_); }
  const foretoken::error& error() const& { return std::get<1>(state_); }
  foretoken::error&& error() && { return std::get<1>(std::move(state_)); }

 private:
  std::variant<T, foretoken::error> state_;
};

// result<void> is called status: success, or the error.
template <>
class [[nodiscard]] result<void> {
 public:
  result() = default;
  result(foretoken::error failure) : failure_(std::move(failure)), failed_(true) {}
  bool has_value() const noexcept { return !failed_; }
  explicit operator bool() const noexcept { return has_value(); }
  foretoken::error& error() & { return failure_; }
  const foretoken::error& error() const& { return failure_; }
  foretoken::error&& error() && { return std::move(failure_); }

 private:
  foretoken::error failure_;
  bool failed_ = false;
};
using status = result<void>;

// Shorthands for the common ends of a function.
inline error invalid(std::string field, std::string message) {
  return {errc::invalid_argument, std::move(message), std::move(field)};
}
inline error corrupt(std::string field, std::string message) {
  return {errc::corrupt, std::move(message), std::move(field)};
}
inline error unsupported(std::string field, std::string message) {
  return {errc::unsupported, std::move(message), std::move(field)};
}

}  // namespace foretoken

// Returns from the enclosing function when `expression` (a result or status) failed.
#define FORETOKEN_TRY(expression)                                              \
  do {                                                                         \
    if (auto tried_ = (expression); !tried_) return std::move(tried_).error(); \
  } while (false)
