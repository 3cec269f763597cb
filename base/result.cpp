// SPDX-License-Identifier: Apache-2.0
#include "base/result.hpp"

namespace foretoken {

const char* errc_name(errc code) noexcept {
  switch (code) {
    case errc::invalid_argument: return "invalid_argument";
    case errc::not_found: return "not_found";
    case errc::unsupported: return "unsupported";
    case errc::exhausted: return "exhausted";
    case errc::cancelled: return "cancelled";
    case errc::deadline_exceeded: return "deadline_exceeded";
    case errc::corrupt: return "corrupt";
    case errc::device: return "device";
    case errc::internal: return "internal";
  }
  return "internal";
}

std::string to_string(const error& failure) {
  return failure.field.empty() ? failure.message : failure.field + ": " + failure.message;
}

}  // namespace foretoken
