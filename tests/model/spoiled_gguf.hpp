// SPDX-License-Identifier: Apache-2.0
#pragma once
// Every way we know to spoil a GGUF file, each with the error it must get. Read from memory by
// gguf_test.cpp, from disk and by the program in tests/hostile.

#include <cstddef>
#include <string>
#include <vector>

#include "base/result.hpp"

namespace foretoken::model {

struct spoiled_file {
  int entry = 0;  // number in tests/hostile/catalogue.cpp; 0 = not listed there
  std::string what;
  std::vector<std::byte> bytes;
  std::string field;  // what the error must name
  errc code = errc::corrupt;
};

std::vector<spoiled_file> spoiled_gguf_files();

}  // namespace foretoken::model
