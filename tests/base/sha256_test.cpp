// SPDX-License-Identifier: Apache-2.0
// The examples of FIPS 180-4.
#include "base/sha256.hpp"

#include <doctest/doctest.h>

using foretoken::hex;
using foretoken::sha256;

TEST_CASE("sha256: the standard's examples, whole and in pieces") {
  const auto digest = [](std::initializer_list<std::string_view> pieces) {
    sha256 hash;
    for (const auto piece : pieces) hash.add(piece);
    const auto found = hash.finish();
    REQUIRE(found);
    return hex(*found);
  };
  CHECK(digest({}) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(digest({"abc"}) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(digest({"a", "", "bc"}) == digest({"abc"}));
}

TEST_CASE("sha256: ends once") {
  sha256 hash;
  CHECK(hash.finish());
  CHECK_FALSE(hash.finish());
}
