// SPDX-License-Identifier: Apache-2.0
#include "net/pace.hpp"

#include <doctest/doctest.h>

using namespace std::chrono_literals;
using foretoken::net::pace;

TEST_CASE("pace: a kilobyte a second is enough, less is not, and the grace comes first") {
  const pace::time_point start{};
  pace sender;
  sender.begin(start, 0);
  CHECK_FALSE(sender.too_slow(start + 5s, 5s));
  CHECK(sender.too_slow(start + 5001ms, 5s));
  sender.add(6000);
  CHECK_FALSE(sender.too_slow(start + 6s, 5s));
  CHECK(sender.too_slow(start + 6001ms, 5s));
  sender.begin(start + 10s, 100);
  CHECK_FALSE(sender.too_slow(start + 15s, 5s));
  CHECK(sender.too_slow(start + 16s, 5s));
}
