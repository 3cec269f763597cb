// SPDX-License-Identifier: Apache-2.0
#include "config/load.hpp"

#include <doctest/doctest.h>

#include <fstream>
#include <string>

#include "tests/config/spoiled_toml.hpp"

using namespace foretoken;
using namespace foretoken::config;

TEST_CASE("load: values of every type reach their members") {
  settings all;
  REQUIRE(read_text(R"([model]
path = "/m.gguf"
precision = "fast"
[cpu]
threads = 3
[cache]
kv_bytes = "64 MiB"
[actors]
restart_backoff = "1 s"
restart_backoff_max = 5000
[log]
level = "debug"
)",
                    "t.toml", all));
  CHECK(all.engine.model == "/m.gguf");
  CHECK(all.engine.cpu.threads == 3);
  CHECK(all.engine.cpu.precision == cpu::numerics::fast);
  CHECK(all.engine.cpu.kv_bytes == 64u << 20);
  CHECK(all.engine.restart_backoff == std::chrono::seconds(1));
  CHECK(all.engine.restart_backoff_max == std::chrono::seconds(5));
  CHECK(all.log.lowest == log::level::debug);
}

TEST_CASE("load: every spoiled file is refused with the line and by name") {
  for (const spoiled_toml& one : spoiled_toml_files()) {
    CAPTURE(one.text.substr(0, 80));
    settings all;
    const auto done = read_text(one.text, "t.toml", all);
    REQUIRE_FALSE(done);
    CHECK(done.error().code == errc::invalid_argument);
    CHECK(done.error().field == one.field);
    CHECK(done.error().message.starts_with("t.toml:"));
    CHECK(done.error().message.find(one.part) != std::string::npos);
  }
}

TEST_CASE("load: any character may stand in quotes and comments") {
  settings all;
  const auto done = read_text(
      "# \xC3\xA9 \"\n[model] # '\xC3\xA9\npath = \"a\\\"\xC3\xA9 # no comment\"\n[net]\n"
      "allowed_hosts = ['\xC3\xA9\\', \"\"\"\\\n \xC3\xA9 \"x\" \"\"\", '''\xC3\xA9''']\n",
      "t.toml", all);
  if (!done) FAIL(done.error().message);
  CHECK(all.engine.model == "a\"\xC3\xA9 # no comment");
  CHECK(all.net.allowed_hosts ==
        std::vector<std::string>{"\xC3\xA9\\", "\xC3\xA9 \"x\" ", "\xC3\xA9"});
}

TEST_CASE("load: no name is proposed when none is near") {
  settings all;
  const auto done = read_text("[cpu]\nzzzzzzzzzzzzzzz = 2\n", "t.toml", all);
  REQUIRE_FALSE(done);
  CHECK(done.error().message.find("did you mean") == std::string::npos);
}

TEST_CASE("load: a file that is absent, a folder or too long is a clear error") {
  settings all;
  const auto absent = read_file("/nonexistent/foretoken.toml", all);
  REQUIRE_FALSE(absent);
  CHECK(absent.error().code == errc::not_found);
  CHECK(absent.error().field == "config");
  CHECK_FALSE(read_file("/", all));
  CHECK_FALSE(read_file("/dev/zero", all));
}

TEST_CASE("load: the environment overrides the file and names its variable in errors") {
  settings all;
  REQUIRE(read_text("[cpu]\nthreads = 3\n[scheduler]\ncredits = 6\n", "t.toml", all));
  REQUIRE(read_environment({{"FORETOKEN_CPU_THREADS", "5"},
                            {"FORETOKEN_CACHE_KV_BYTES", "32 MiB"},
                            {"FORETOKEN_MODEL", "ignored"},
                            {"FORETOKEN_CACHE", "ignored"},
                            {"HOME", "/root"}},
                           all));
  CHECK(all.engine.cpu.threads == 5);
  CHECK(all.engine.scheduler.credits == 6);
  CHECK(all.engine.cpu.kv_bytes == 32u << 20);
  const auto typo = read_environment({{"FORETOKEN_CPU_THREAD", "5"}}, all);
  REQUIRE_FALSE(typo);
  CHECK(typo.error().message.find("did you mean FORETOKEN_CPU_THREADS?") != std::string::npos);
  const auto wrong = read_environment({{"FORETOKEN_CPU_THREADS", "5x"}}, all);
  REQUIRE_FALSE(wrong);
  CHECK(wrong.error().field == "cpu.threads");
  CHECK(wrong.error().message.find("FORETOKEN_CPU_THREADS") != std::string::npos);
}

TEST_CASE("load: rules between keys name the key at fault") {
  settings full;
  full.net.output_soft_bytes = full.net.output_hard_bytes / 2 + 1;
  const auto soft = check(full);
  REQUIRE_FALSE(soft);
  CHECK(soft.error().field == "net.output_soft_bytes");
  CHECK(check(settings{}));
}

TEST_CASE("values: sizes and durations keep their meaning through text") {
  CHECK(*parse_bytes("256 MiB") == 256 << 20);
  CHECK(*parse_bytes("1KB") == 1000);
  CHECK(*parse_bytes("77") == 77);
  CHECK(*parse_duration("2 min") == 120'000);
  for (const std::int64_t each :
       {0LL, 1LL, 1000LL, 1024LL, 1536LL, 3LL << 30, 25'000LL, 90'000LL}) {
    CAPTURE(each);
    CHECK(*parse_bytes(format_bytes(each)) == each);
    CHECK(*parse_duration(format_duration(each)) == each);
  }
  CHECK_FALSE(parse_bytes(""));
  CHECK_FALSE(parse_bytes("MiB"));
  CHECK_FALSE(parse_duration("1 week"));
}
