// SPDX-License-Identifier: Apache-2.0
#pragma once
// Makes rows of the key table: each binds a name to one member of `settings`. Only keys.cpp and
// net_keys.cpp include this.

#include <filesystem>
#include <map>
#include <type_traits>
#include <utility>

#include "config/keys.hpp"

// A function that gives the member in a (possibly const) settings object.
#define FORETOKEN_MEMBER(path) ([](auto& all) -> auto& { return all.path; })

namespace foretoken::config {

constexpr double bytes_max = 0x1p50;

template <class Member>
key numeric(
    key_type type, std::string name, double low, double high, std::string help, Member member) {
  key made{std::move(name), type, low, high, {}, std::move(help), {}, {}};
  made.set = [member](settings& all, const value& given) {
    auto& target = member(all);
    target = static_cast<std::remove_reference_t<decltype(target)>>(std::get<std::int64_t>(given));
  };
  made.get = [member](const settings& all) {
    return value(static_cast<std::int64_t>(member(all)));
  };
  return made;
}

template <class Member>
key integer(std::string name, double low, double high, std::string help, Member member) {
  return numeric(key_type::integer, std::move(name), low, high, std::move(help), member);
}

template <class Member>
key bytes(std::string name, double low, double high, std::string help, Member member) {
  return numeric(key_type::bytes, std::move(name), low, high, std::move(help), member);
}

// Any std::chrono duration; milliseconds in the file.
template <class Member>
key duration(std::string name, double low, double high, std::string help, Member member) {
  key made{std::move(name), key_type::duration, low, high, {}, std::move(help), {}, {}};
  made.set = [member](settings& all, const value& given) {
    auto& target = member(all);
    target = std::chrono::duration_cast<std::remove_reference_t<decltype(target)>>(
        std::chrono::milliseconds(std::get<std::int64_t>(given)));
  };
  made.get = [member](const settings& all) {
    const auto shown = std::chrono::duration_cast<std::chrono::milliseconds>(member(all));
    return value(static_cast<std::int64_t>(shown.count()));
  };
  return made;
}

template <class Member>
key number(std::string name, double low, double high, std::string help, Member member) {
  key made{std::move(name), key_type::number, low, high, {}, std::move(help), {}, {}};
  made.set = [member](settings& all, const value& given) { member(all) = std::get<double>(given); };
  made.get = [member](const settings& all) { return value(static_cast<double>(member(all))); };
  return made;
}

template <class Member>
key boolean(std::string name, std::string help, Member member) {
  key made{std::move(name), key_type::boolean, 0, 0, {}, std::move(help), {}, {}};
  made.set = [member](settings& all, const value& given) { member(all) = std::get<bool>(given); };
  made.get = [member](const settings& all) { return value(static_cast<bool>(member(all))); };
  return made;
}

template <class Member>
key text(std::string name, std::string help, Member member) {
  key made{std::move(name), key_type::text, 0, 0, {}, std::move(help), {}, {}};
  made.set = [member](settings& all, const value& given) {
    member(all) = std::get<std::string>(given);
  };
  made.get = [member](const settings& all) { return value(std::string(member(all))); };
  return made;
}

template <class Member>
key path(std::string name, std::string help, Member member) {
  key made = text(std::move(name), std::move(help), member);
  made.get = [member](const settings& all) { return value(member(all).string()); };
  return made;
}

template <class Member>
key text_list(std::string name, std::string help, Member member) {
  key made{std::move(name), key_type::text_list, 0, 0, {}, std::move(help), {}, {}};
  made.set = [member](settings& all, const value& given) {
    member(all) = std::get<std::vector<std::string>>(given);
  };
  made.get = [member](const settings& all) { return value(member(all)); };
  return made;
}

template <class Enum, class Member>
key choice(std::string name,
           std::vector<std::pair<std::string, Enum>> names,
           std::string help,
           Member member) {
  key made{std::move(name), key_type::choice, 0, 0, {}, std::move(help), {}, {}};
  for (const auto& [shown, unused] : names) made.choices.push_back(shown);
  made.set = [member, names](settings& all, const value& given) {
    for (const auto& [shown, meant] : names) {
      if (shown == std::get<std::string>(given)) member(all) = meant;
    }
  };
  made.get = [member, names](const settings& all) {
    for (const auto& [shown, meant] : names) {
      if (meant == member(all)) return value(shown);
    }
    return value(std::string());
  };
  return made;
}

void add_net_keys(std::vector<key>& out);  // config/net_keys.cpp

}  // namespace foretoken::config
