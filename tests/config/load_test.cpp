// SPDX-License-Identifier: Apache-2.0
#include "config/load.hpp"

#include <doctest/doctest.h>

#include <fstream>
#include <string>

using namespace foretoken;
using namespace foretoken::config;

namespace {

// The message of the error that `toml` gives, with the field in front; empty when it is accepted.
std::string complaint(std::string_view toml) {
  settings all;
  const auto done = read_text(toml, "t.toml", all);
  return done ? std::string() : done.error().field + " | " + done.error().message;
}

void refused(std::string_view toml, std::string_view field, std::string_view part) {
  const std::string said = complaint(toml);
  CAPTURE(toml.substr(0, 80));
  CAPTURE(said);
  CHECK(said.starts_with(std::string(field) + " | t.toml:"));
  CHECK(said.find(part) != std::string::npos);
}

}  // namespace

TEST_CASE("load: values of every type reach their members") {
  settings all;
  REQUIRE(read_text(R"([model]
path = "/m.gguf"
[cpu]
threads = 3
numerics = "float32"
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
  CHECK(all.engine.cpu.precision == cpu::numerics::float32);
  CHECK(all.engine.cpu.kv_bytes == 64u << 20);
  CHECK(all.engine.restart_backoff == std::chrono::seconds(1));
  CHECK(all.engine.restart_backoff_max == std::chrono::seconds(5));
  CHECK(all.log.lowest == log::level::debug);
}

TEST_CASE("load: an unknown name is refused with its line and the nearest name") {
  refused("[cpu]\n\nthread = 2\n", "cpu.thread",
          "t.toml:3: unknown key cpu.thread; did you mean cpu.threads?");
  refused("[modle]\npath = \"x\"\n", "modle",
          "t.toml:1: unknown section modle; did you mean model?");
  refused("threads = 2\n", "threads", "t.toml:1: unknown key threads");
  refused("[cpu]\nzzzzzzzzzzzzzzz = 2\n", "cpu.zzzzzzzzzzzzzzz", "unknown key");
  CHECK(complaint("[cpu]\nzzzzzzzzzzzzzzz = 2\n").find("did you mean") == std::string::npos);
}

TEST_CASE("load: wrong types are refused with the line") {
  refused("[cpu]\nthreads = \"2\"\n", "cpu.threads",
          "t.toml:2: expected a whole number, found a text");
  refused("[cpu]\nthreads = 2.0\n", "cpu.threads", "expected a whole number");
  refused("[cpu]\nthreads = true\n", "cpu.threads", "found a boolean");
  refused("[cpu]\nthreads = [1]\n", "cpu.threads", "found a list");
  refused("[cpu]\nthreads.x = 1\n", "cpu.threads", "found a table");
  refused("[cpu]\nthreads = 2020-01-01\n", "cpu.threads", "found a date");
  refused("[cpu]\nnumerics = 1\n", "cpu.numerics", "expected a text in quotes");
  refused("cpu = 1\n", "cpu", "expected a section [cpu]");
  refused("[[cpu]]\nthreads = 1\n", "cpu", "expected a section [cpu]");
  refused("[cache]\nkv_bytes = \"64 XiB\"\n", "cache.kv_bytes", "t.toml:2: expected a form like");
  refused("[cache]\nkv_bytes = \"999999999999 TiB\"\n", "cache.kv_bytes", "expected a form like");
  refused("[cache]\nkv_bytes = 1.5\n", "cache.kv_bytes", "expected a size");
  refused("[drain]\ndeadline = \"soon\"\n", "drain.deadline", "expected a form like");
}

TEST_CASE("load: values out of range are refused with the range") {
  refused("[cpu]\nthreads = -1\n", "cpu.threads", "must be 0 to 1024");
  refused("[cpu]\nthreads = 4294967296\n", "cpu.threads", "must be 0 to 1024");
  refused("[cpu]\nnumerics = \"int8\"\n", "cpu.numerics", "must be one of exact, float32");
  refused("[drain]\ndeadline = \"-1 s\"\n", "drain.deadline", "must be 0 ms to 86400 s");
  refused("[scheduler]\nsequences_max = 0\n", "scheduler.sequences_max", "must be 1 to");
}

TEST_CASE("load: nan, infinity and numbers too large for TOML are refused") {
  refused("[cpu]\nthreads = nan\n", "cpu.threads", "found the number nan");
  refused("[cpu]\nthreads = inf\n", "cpu.threads", "found the number inf");
  refused("[drain]\ndeadline = -inf\n", "drain.deadline", "t.toml:2: expected a duration");
  refused("[cpu]\nthreads = 1e400\n", "config", "t.toml:2: ");
  refused("[cpu]\nthreads = 99999999999999999999\n", "config", "t.toml:2: ");
}

TEST_CASE("load: broken files are refused with the line") {
  refused("[cpu]\nthreads = 1\nthreads = 2\n", "config", "t.toml:3: ");
  refused("[cpu]\nthreads = 1\n[cpu]\nthreads = 2\n", "config", "t.toml:3: ");
  refused("[cpu]\nthreads = \n", "config", "t.toml:2: ");
  refused("[cpu\n", "config", "t.toml:1: ");
  refused("[log]\nlevel = \"\xff\xfe\"\n", "config", "t.toml:2: ");
  refused("\xEF\xBB\xBF[cpu]\n", "config", "byte order mark");
  refused("\xFF\xFE[\0", "config", "byte order mark");
  refused(std::string_view("[log]\n\nlevel = \"in\0fo\"\n", 21), "config",
          "t.toml:3: contains a NUL byte");
  refused("[model]\npath = \"a\\u0000b\"\n", "model.path", "NUL");
}

TEST_CASE("load: huge and deep files are refused quickly") {
  refused(std::string(10u << 20, '#'), "config", "larger than 1 MiB");
  refused("[cpu]\n#" + std::string(5000, 'x'), "config", "t.toml:2: the line is longer");
  std::string lists = "[cpu]\nthreads = ";
  lists += std::string(1000, '[') + std::string(1000, ']') + "\n";
  refused(lists, "config", "t.toml:2: ");
  std::string dotted = "[a";
  for (int i = 0; i < 1000; ++i) dotted += ".a";
  refused(dotted + "]\nb = 1\n", "a", "unknown section");
  std::string both = "[cpu";
  for (int i = 0; i < 2000; ++i) both += ".a";
  both += "]\nb";
  for (int i = 0; i < 2000; ++i) both += ".a";
  refused(both + " = 1\n", "cpu.a", "unknown key");
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
  REQUIRE(read_text("[cpu]\nthreads = 3\nrows_max = 600\n", "t.toml", all));
  REQUIRE(read_environment({{"FORETOKEN_CPU_THREADS", "5"},
                            {"FORETOKEN_CACHE_KV_BYTES", "32 MiB"},
                            {"FORETOKEN_MODEL", "ignored"},
                            {"FORETOKEN_CACHE", "ignored"},
                            {"HOME", "/root"}},
                           all));
  CHECK(all.engine.cpu.threads == 5);
  CHECK(all.engine.cpu.rows_max == 600);
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
  settings all;
  all.engine.scheduler.step_tokens_max = all.engine.cpu.rows_max + 1;
  const auto wide = check(all);
  REQUIRE_FALSE(wide);
  CHECK(wide.error().field == "scheduler.step_tokens_max");
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
