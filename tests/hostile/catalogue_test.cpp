// SPDX-License-Identifier: Apache-2.0
#include "tests/hostile/catalogue.hpp"

#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "tests/hostile/program.hpp"

using namespace foretoken;
namespace fs = std::filesystem;

namespace {

using names = std::set<std::string>;

// "Class.method" of every unittest in tests/system.
names python_tests() {
  names found;
  for (const auto& file : fs::directory_iterator(FORETOKEN_ROOT "/tests/system")) {
    std::ifstream in(file.path());
    std::string line, owner;
    while (std::getline(in, line)) {
      if (line.starts_with("class ")) owner = line.substr(6, line.find_first_of("(:") - 6);
      const auto at = line.find("def test_");
      if (at != std::string::npos) {
        found.insert(owner + '.' + line.substr(at + 4, line.find('(') - at - 4));
      }
    }
  }
  return found;
}

names cases_of(const std::string& program) {
  if (program == "system") return python_tests();
  const auto listed =
      test::run_program(FORETOKEN_TEST_PROGRAMS "/" + program + "_test", {"--list-test-cases"});
  names found;
  std::istringstream lines(listed.out);
  for (std::string line; std::getline(lines, line);) found.insert(line);
  return found;
}

}  // namespace

TEST_CASE("catalogue: numbers 1 to 72, each once, in order") {
  int expected = 0;
  for (const auto& entry : test::catalogue()) CHECK(entry.number == ++expected);
  CHECK(expected == 72);
}

TEST_CASE("catalogue: every entry is proved or says why it does not concern us") {
  int proved = 0, in_part = 0, not_ours = 0;
  for (const auto& entry : test::catalogue()) {
    CAPTURE(entry.number);
    CHECK((!entry.by.empty() || entry.left_out != nullptr));
    if (entry.by.empty()) {
      ++not_ours;
    } else {
      ++(entry.left_out == nullptr ? proved : in_part);
    }
  }
  MESSAGE("catalogue of bad inputs: " << proved << " proved, " << in_part
                                      << " proved as far as they concern us, " << not_ours
                                      << " do not concern us");
}

TEST_CASE("catalogue: every named test exists") {
  std::map<std::string, names> known;
  for (const auto& entry : test::catalogue()) {
    CAPTURE(entry.number);
    for (const auto& [program, name] : entry.by) {
      CAPTURE(program);
      CAPTURE(name);
      if (!known.contains(program)) known[program] = cases_of(program);
      CHECK(known[program].contains(name));
    }
  }
}
