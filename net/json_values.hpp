// SPDX-License-Identifier: Apache-2.0
#pragma once
// One JSON value as the type a parameter takes; the error names the parameter.

#include <cstdint>
#include <string>
#include <vector>

#include "base/ids.hpp"
#include "base/result.hpp"
#include "net/json.hpp"

namespace foretoken::net {

status read_integer(const json_value& value,
                    const std::string& field,
                    std::int64_t low,
                    std::int64_t high,
                    std::int64_t& out);
status read_number(const json_value& value,
                   const std::string& field,
                   double low,
                   double high,
                   bool above,
                   float& out);
// Any number that is finite as a float; the engine knows its range.
status read_finite(const json_value& value, const std::string& field, float& out);
status read_bool(const json_value& value, const std::string& field, bool& out);
status read_string(const json_value& value, const std::string& field, std::string& out);
status refuse(const std::string& field, const char* accepted);
result<std::vector<token>> read_tokens(const json_array& list, const std::string& field);

}  // namespace foretoken::net
