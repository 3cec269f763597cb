// SPDX-License-Identifier: Apache-2.0
// Values of keys: ranges, units, and the text forms that flags and the environment use.
#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cmath>
#include <numeric>
#include <span>

#include "config/keys.hpp"

namespace foretoken::config {
namespace {

struct unit {
  std::string_view name;
  std::int64_t factor;
};

constexpr std::array byte_units{unit{"", 1},
                                unit{"B", 1},
                                unit{"KiB", 1LL << 10},
                                unit{"MiB", 1LL << 20},
                                unit{"GiB", 1LL << 30},
                                unit{"TiB", 1LL << 40},
                                unit{"KB", 1'000},
                                unit{"kB", 1'000},
                                unit{"MB", 1'000'000},
                                unit{"GB", 1'000'000'000},
                                unit{"TB", 1'000'000'000'000}};
constexpr std::array duration_units{unit{"", 1}, unit{"ms", 1}, unit{"s", 1'000},
                                    unit{"min", 60'000}, unit{"h", 3'600'000}};

std::string_view trim(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  return text;
}

template <class Units>
result<std::int64_t> parse_units(std::string_view given, const Units& units, const char* example) {
  const std::string_view text = trim(given);
  std::int64_t amount = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), amount);
  if (code == std::errc{}) {
    const std::string_view rest = trim(text.substr(static_cast<std::size_t>(end - text.data())));
    for (const unit& each : units) {
      std::int64_t product = 0;
      if (each.name == rest && !__builtin_mul_overflow(amount, each.factor, &product))
        return product;
    }
  }
  return invalid({}, "expected a form like " + std::string(example) + ", found \"" +
                         std::string(given.substr(0, 64)) + "\"");
}

template <class Units>
std::string format_units(std::int64_t amount, const Units& units) {
  const unit* best = &units.front();
  for (const unit& each : units) {
    if (amount != 0 && each.factor > best->factor && amount % each.factor == 0) best = &each;
  }
  if (best->factor == 1) return std::to_string(amount);
  return std::to_string(amount / best->factor) + " " + std::string(best->name);
}

std::string shown(double bound, key_type type) {
  const auto whole = static_cast<std::int64_t>(bound);
  if (type == key_type::bytes) return format_bytes(whole);
  if (type == key_type::duration) return format_duration(whole);
  if (type == key_type::integer) return std::to_string(whole);
  std::string out = std::to_string(bound);
  while (out.size() > 3 && out.back() == '0' && out[out.size() - 2] != '.') out.pop_back();
  return out;
}

error at_key(const key& chosen, std::string message) {
  return invalid(chosen.name, std::move(message));
}

}  // namespace

const char* key_type_name(key_type type) noexcept {
  switch (type) {
    case key_type::boolean: return "boolean";
    case key_type::integer: return "integer";
    case key_type::number: return "number";
    case key_type::bytes: return "bytes";
    case key_type::duration: return "duration";
    case key_type::text: return "text";
    case key_type::choice: return "choice";
    case key_type::text_list: return "list of texts";
  }
  return "";
}

std::string key::environment() const {
  std::string out = "FORETOKEN_" + name;
  for (char& c : out)
    c = c == '.' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return out;
}

std::string key::range() const {
  if (type == key_type::choice) {
    return std::accumulate(choices.begin(), choices.end(), std::string(),
                           [](std::string all, const auto& one) {
                             return all.empty() ? one : std::move(all) + ", " + one;
                           });
  }
  if (minimum == maximum) return type == key_type::boolean ? "true, false" : "";
  return shown(minimum, type) + " to " + shown(maximum, type);
}

result<std::int64_t> parse_bytes(std::string_view text) {
  return parse_units(text, byte_units, "\"256 MiB\" or a number of bytes");
}

result<std::int64_t> parse_duration(std::string_view text) {
  return parse_units(text, duration_units, "\"25 s\", \"500 ms\" or a number of milliseconds");
}

std::string format_bytes(std::int64_t bytes) {
  return format_units(bytes, std::span(byte_units).first<6>());
}

std::string format_duration(std::int64_t milliseconds) {
  const std::string out = format_units(milliseconds, std::span(duration_units).first<3>());
  return out.back() == 's' ? out : out + " ms";
}

const key* find_key(std::string_view name) {
  for (const key& each : keys()) {
    if (each.name == name) return &each;
  }
  return nullptr;
}

status assign(const key& chosen, const value& given, settings& into) {
  const double* number = std::get_if<double>(&given);
  const auto* whole = std::get_if<std::int64_t>(&given);
  if (number != nullptr && !std::isfinite(*number))
    return at_key(chosen, "must be a finite number");
  if (number != nullptr || whole != nullptr) {
    const double amount = number != nullptr ? *number : static_cast<double>(*whole);
    if (amount < chosen.minimum || amount > chosen.maximum) {
      return at_key(chosen, "must be " + chosen.range());
    }
  }
  if (chosen.type == key_type::choice &&
      std::ranges::find(chosen.choices, std::get<std::string>(given)) == chosen.choices.end()) {
    return at_key(chosen, "must be one of " + chosen.range());
  }
  if (const auto* text = std::get_if<std::string>(&given);
      text != nullptr && text->find('\0') != std::string::npos) {
    return at_key(chosen, "must not contain a NUL character");
  }
  chosen.set(into, given);
  return {};
}

status assign_text(const key& chosen, std::string_view text, settings& into) {
  if (chosen.type == key_type::boolean) {
    if (text == "true" || text == "1") return assign(chosen, value(true), into);
    if (text == "false" || text == "0") return assign(chosen, value(false), into);
    return at_key(chosen, "must be true or false");
  }
  if (chosen.type == key_type::bytes || chosen.type == key_type::duration) {
    auto parsed = chosen.type == key_type::bytes ? parse_bytes(text) : parse_duration(text);
    if (!parsed) return at_key(chosen, std::move(parsed).error().message);
    return assign(chosen, value(*parsed), into);
  }
  if (chosen.type == key_type::integer) {
    std::int64_t amount = 0;
    const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), amount);
    if (code != std::errc{} || end != text.data() + text.size()) {
      return at_key(chosen, "must be a whole number, " + chosen.range());
    }
    return assign(chosen, value(amount), into);
  }
  if (chosen.type == key_type::number) {
    double amount = 0;
    const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), amount);
    if (code != std::errc{} || end != text.data() + text.size()) {
      return at_key(chosen, "must be a number, " + chosen.range());
    }
    return assign(chosen, value(amount), into);
  }
  if (chosen.type == key_type::text_list) {  // comma-separated; empty text = empty list
    std::vector<std::string> parts;
    for (std::string_view rest = text; !rest.empty();) {
      const auto comma = std::min(rest.find(','), rest.size());
      parts.emplace_back(trim(rest.substr(0, comma)));
      rest.remove_prefix(std::min(comma + 1, rest.size()));
    }
    return assign(chosen, value(std::move(parts)), into);
  }
  return assign(chosen, value(std::string(text)), into);
}

std::string nearest(std::string_view wrong, const std::vector<std::string>& known) {
  std::string best;
  std::size_t best_distance = std::max<std::size_t>(2, wrong.size() / 3) + 1;
  if (wrong.size() > 128) return best;
  for (const std::string& name : known) {
    std::vector<std::size_t> row(name.size() + 1);
    std::iota(row.begin(), row.end(), std::size_t{0});
    for (std::size_t i = 0; i < wrong.size(); ++i) {
      std::size_t diagonal = row[0];
      row[0] = i + 1;
      for (std::size_t j = 0; j < name.size(); ++j) {
        const std::size_t replaced = diagonal + (wrong[i] == name[j] ? 0 : 1);
        diagonal = row[j + 1];
        row[j + 1] = std::min({replaced, row[j] + 1, diagonal + 1});
      }
    }
    if (row.back() < best_distance) {
      best_distance = row.back();
      best = name;
    }
  }
  return best;
}

}  // namespace foretoken::config
