// SPDX-License-Identifier: Apache-2.0
#pragma once
// Configuration files that must be refused. Read from memory by load_test.cpp, from disk by the
// program in tests/hostile.

#include <string>
#include <vector>

namespace foretoken::config {

struct spoiled_toml {
  int entry = 0;  // number in tests/hostile/catalogue.cpp; 0 = not listed there
  std::string text;
  std::string field;  // what the error must name
  std::string part;   // what its message must hold: ":LINE: " and the reason
};

std::vector<spoiled_toml> spoiled_toml_files();

}  // namespace foretoken::config
