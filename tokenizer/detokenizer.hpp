// SPDX-License-Identifier: Apache-2.0
#pragma once
// Streams the text of generated tokens: whole UTF-8 characters only, control tokens omitted.
// One object a stream, one thread at a time.

#include <memory>
#include <string>
#include <vector>

#include "tokenizer/tokenizer.hpp"

namespace foretoken::tokenizer {

class detokenizer {
 public:
  // `at_start`: the next token begins a text, so SentencePiece's leading space is dropped.
  explicit detokenizer(std::shared_ptr<const tokenizer> source, bool at_start = false);

  // Appends to `out` the characters that became whole with this token. Bytes that can never become
  // valid come out as U+FFFD (one a maximal invalid part, as the Unicode standard recommends).
  void push(token id, std::string& out);

  // End of the stream: bytes still pending come out as U+FFFD.
  void finish(std::string& out);

 private:
  std::shared_ptr<const tokenizer> source_;
  std::string pending_;  // at most 3 bytes of an unfinished character
  bool at_start_;
};

// Cuts a stream at the first stop string. Text that might still become a stop string is held back.
class stop_matcher {
 public:
  explicit stop_matcher(std::vector<std::string> stops);
  // Appends to `out` what is now certain to be before any stop; true when a stop string was found
  // (nothing at or after it comes out).
  bool push(std::string_view text, std::string& out);
  void finish(std::string& out);  // no stop came: what was held back

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;  // nothing comes out any more
};

}  // namespace foretoken::tokenizer
