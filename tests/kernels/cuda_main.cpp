// SPDX-License-Identifier: Apache-2.0
// The kernels' table on a CUDA device; exit 77 (skipped) where there is none.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>

#include "tests/kernels/device.hpp"

int main(int count, char** arguments) {
  if (!foretoken::test::device_present()) {
    std::puts("skipped: needs a GPU");
    return 77;
  }
  std::printf("on %s\n", foretoken::test::device_name());
  return doctest::Context(count, arguments).run();
}
