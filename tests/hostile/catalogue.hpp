// SPDX-License-Identifier: Apache-2.0
#pragma once
// The catalogue of bad inputs: what was seen to break servers and loaders like this one, numbered.
// catalogue.cpp says for each which tests prove that it is refused here, or why it does not concern
// us; catalogue_test.cpp checks that no number is missing and that each named test exists.

#include <vector>

namespace foretoken::test {

// A doctest case of a test program (its ctest name), or "Class.method" of tests/system/*_test.py.
struct proof {
  const char* program;
  const char* name;
};

struct catalogue_entry {
  int number;
  const char* input;
  const char* required;  // what must happen
  std::vector<proof> by;
  const char* left_out =
      nullptr;  // the part that does not concern us (all of it when `by` is empty)
};

const std::vector<catalogue_entry>& catalogue();

}  // namespace foretoken::test
