// SPDX-License-Identifier: Apache-2.0
#pragma once
// FORETOKEN_ASSERT guards what only our own bug can break. It is on in every build: stopping beats
// going on with wrong state. What users, files, peers or devices can cause is a result, never this.

#include <cstdio>
#include <cstdlib>

namespace foretoken {
[[noreturn]] inline void assertion_failed(const char* what, const char* file, int line) noexcept {
  std::fprintf(stderr, "foretoken: internal error: %s (%s:%d)\n", what, file, line);
  std::abort();
}
}  // namespace foretoken

#define FORETOKEN_ASSERT(condition) \
  ((condition) ? void(0) : ::foretoken::assertion_failed(#condition, __FILE__, __LINE__))
