// SPDX-License-Identifier: Apache-2.0
#include "tests/config/spoiled_toml.hpp"

namespace foretoken::config {
namespace {

using rows = std::vector<spoiled_toml>;

rows unknown_names() {
  return {
      {45, "[cpu]\n\nthread = 2\n", "cpu.thread",
       "t.toml:3: unknown key cpu.thread; did you mean cpu.threads?"},
      {45, "[modle]\npath = \"x\"\n", "modle",
       "t.toml:1: unknown section modle; did you mean model?"},
      {45, "threads = 2\n", "threads", "t.toml:1: unknown key threads"},
      {45, "[cpu]\nzzzzzzzzzzzzzzz = 2\n", "cpu.zzzzzzzzzzzzzzz", "unknown key"},
  };
}

rows wrong_types() {
  return {
      {47, "[cpu]\nthreads = \"2\"\n", "cpu.threads",
       "t.toml:2: expected a whole number, found a text"},
      {47, "[cpu]\nthreads = 2.0\n", "cpu.threads", "expected a whole number"},
      {47, "[cpu]\nthreads = true\n", "cpu.threads", "found a boolean"},
      {47, "[cpu]\nthreads = [1]\n", "cpu.threads", "found a list"},
      {47, "[cpu]\nthreads.x = 1\n", "cpu.threads", "found a table"},
      {47, "[cpu]\nthreads = 2020-01-01\n", "cpu.threads", "found a date"},
      {47, "[model]\nprecision = 1\n", "model.precision", "expected a text in quotes"},
      {47, "[net]\nhttp = 8080\n", "net.http", "expected a text in quotes"},
      {47, "cpu = 1\n", "cpu", "expected a section [cpu]"},
      {47, "[[cpu]]\nthreads = 1\n", "cpu", "expected a section [cpu]"},
      {47, "[cache]\nkv_bytes = \"64 XiB\"\n", "cache.kv_bytes", "t.toml:2: expected a form like"},
      {47, "[cache]\nkv_bytes = \"999999999999 TiB\"\n", "cache.kv_bytes", "expected a form like"},
      {47, "[cache]\nkv_bytes = 1.5\n", "cache.kv_bytes", "expected a size"},
      {47, "[drain]\ndeadline = \"soon\"\n", "drain.deadline", "expected a form like"},
  };
}

rows out_of_range() {
  return {
      {47, "[cpu]\nthreads = -1\n", "cpu.threads", "must be 0 to 1024"},
      {47, "[cpu]\nthreads = 4294967296\n", "cpu.threads", "must be 0 to 1024"},
      {47, "[model]\nprecision = \"int8\"\n", "model.precision",
       "must be one of exact, fast, float32"},
      {47, "[drain]\ndeadline = \"-1 s\"\n", "drain.deadline", "must be 0 ms to 86400 s"},
      {47, "[scheduler]\nsequences_max = 0\n", "scheduler.sequences_max", "must be 1 to"},
  };
}

rows not_numbers() {
  return {
      {48, "[cpu]\nthreads = nan\n", "cpu.threads", "found the number nan"},
      {48, "[cpu]\nthreads = inf\n", "cpu.threads", "found the number inf"},
      {48, "[drain]\ndeadline = -inf\n", "drain.deadline", "t.toml:2: expected a duration"},
      {48, "[cpu]\nthreads = 1e400\n", "config", "t.toml:2: "},
      {48, "[cpu]\nthreads = 99999999999999999999\n", "config", "t.toml:2: "},
  };
}

rows broken() {
  return {
      {46, "[cpu]\nthreads = 1\nthreads = 2\n", "config", "t.toml:3: "},
      {46, "[cpu]\nthreads = 1\n[cpu]\nthreads = 2\n", "config", "t.toml:3: "},
      {0, "[cpu]\nthreads = \n", "config", "t.toml:2: "},
      {0, "[cpu\n", "config", "t.toml:1: "},
      {0, "[.a]\n", "config", "t.toml:1: "},
      {0, "[log]\nlevel = \"\\\xC3\xA9\"\n", "config", "t.toml:2: "},
      {0, "[[=]]\n", "config", "t.toml:1: "},
      {0, "\n[\xC3\xA9]\n", "config", "t.toml:2: "},
      {0, "[cpu] # \xC3\xA9\nthreads = \xE3\x81\x82\n", "config", "t.toml:2: "},
      {0, "[log]\nlevel = '''a\n'\xC3\xA9'''\nx\xC3\xA9 = 1\n", "config", "t.toml:4: "},
      {44, "[log]\nlevel = \"\xff\xfe\"\n", "config", "t.toml:2: "},
      {44, "\xEF\xBB\xBF[cpu]\n", "config", "byte order mark"},
      {44, "\xFF\xFE[\0", "config", "byte order mark"},
      {44, std::string("[log]\n\nlevel = \"in\0fo\"\n", 21), "config",
       "t.toml:3: contains a NUL byte"},
      {44, "[model]\npath = \"a\\u0000b\"\n", "model.path", "NUL"},
  };
}

rows huge_and_deep() {
  std::string lists = "[cpu]\nthreads = ";
  lists += std::string(1000, '[') + std::string(1000, ']') + "\n";
  std::string dotted = "[a";
  for (int i = 0; i < 1000; ++i) dotted += ".a";
  std::string both = "[cpu";
  for (int i = 0; i < 2000; ++i) both += ".a";
  both += "]\nb";
  for (int i = 0; i < 2000; ++i) both += ".a";
  return {
      {49, std::string(10u << 20, '#'), "config", "larger than 1 MiB"},
      {49, "[cpu]\n#" + std::string(5000, 'x'), "config", "t.toml:2: the line is longer"},
      {49, lists, "config", "t.toml:2: "},
      {49, dotted + "]\nb = 1\n", "a", "unknown section"},
      {49, both + " = 1\n", "cpu.a", "unknown key"},
  };
}

}  // namespace

std::vector<spoiled_toml> spoiled_toml_files() {
  rows all;
  for (const rows& part :
       {unknown_names(), wrong_types(), out_of_range(), not_numbers(), broken(), huge_and_deep()}) {
    all.insert(all.end(), part.begin(), part.end());
  }
  return all;
}

}  // namespace foretoken::config
