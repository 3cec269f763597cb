// SPDX-License-Identifier: Apache-2.0
#include "actors/request.hpp"

namespace foretoken::actors {

const char* finish_reason_name(finish_reason reason) noexcept {
  switch (reason) {
    case finish_reason::stop: return "stop";
    case finish_reason::length: return "length";
    case finish_reason::cancelled: return "cancelled";
  }
  return "stop";
}

}  // namespace foretoken::actors
