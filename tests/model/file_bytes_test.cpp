// SPDX-License-Identifier: Apache-2.0
// A file that changes under its reader.
#include "model/file_bytes.hpp"

#include <chrono>
#include <fstream>

#include <doctest/doctest.h>

#include "tests/hostile/temporary_folder.hpp"

using namespace foretoken;
using namespace foretoken::model;
namespace fs = std::filesystem;

TEST_CASE("read_file: the content and the identity of a file that stays as it is") {
  const test::temporary_folder folder("file_bytes");
  const auto path = folder.write("a", std::string("abc"));
  file_identity identity;
  const auto read = read_file(path, 3, {}, &identity);
  REQUIRE(read);
  CHECK(read->bytes().size() == 3);
  CHECK(identity.size == 3);
  CHECK(read_file(path, 2).error().code == errc::unsupported);
}

TEST_CASE("read_file: another name is no other content, and nothing to remember the file by") {
  const test::temporary_folder folder("file_bytes");
  const auto path = folder.write("a", std::string("abc"));
  file_identity identity;
  const auto read = read_file(
      path, 3, [&](auto) { fs::create_hard_link(path, path.parent_path() / "b"); }, &identity);
  REQUIRE(read);
  CHECK(identity == file_identity{});
}

TEST_CASE("read_file: a file that is written while it is read is corrupt") {
  const test::temporary_folder folder("file_bytes");
  const auto path = folder.write("a", std::string("abc"));
  const auto refused = [&](const chunk_seen& change) {
    const auto read = read_file(path, 100, change);
    REQUIRE_FALSE(read);
    CHECK(read.error().code == errc::corrupt);
    CHECK(read.error().field == "a");
  };
  SUBCASE("longer") {
    refused([&](auto) { std::ofstream(path, std::ios::app) << "d"; });
  }
  SUBCASE("of the same length, at another time") {
    refused([&](auto) {
      fs::last_write_time(path, fs::last_write_time(path) - std::chrono::hours(1));
    });
  }
}
