// SPDX-License-Identifier: Apache-2.0
#pragma once
// The one vocabulary of requests and events. Transports and embedders all speak it.

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/ids.hpp"
#include "base/result.hpp"
#include "model/sampling.hpp"
#include "tokenizer/chat_template.hpp"

namespace foretoken::actors {

using text_prompt = std::string;                           // BOS is added when the file says so
using token_prompt = std::vector<token>;                   // used as given
using chat_prompt = std::vector<tokenizer::chat_message>;  // rendered with the model's template

struct generate_request {
  std::variant<text_prompt, token_prompt, chat_prompt> prompt;
  bool parse_special = false;           // text prompts: control-token text becomes control tokens
  std::int64_t max_tokens = 16;         // 1.. (0 only with echo); cut to the context left
  int n = 1;                            // choices, 1..options.choices_max
  model::sampling_parameters sampling;  // sampling.seed is used when seed_given, else drawn
  bool seed_given = false;
  std::vector<std::string> stop;  // none empty
  bool echo = false;              // the prompt's text (and logprobs when asked) comes out first
  bool ignore_eos = false;
  std::string cache_salt;  // separates prefix caches, <= 64 printable bytes
};

enum class finish_reason { stop, length, cancelled };

struct alternative {
  token id = -1;
  std::string text;   // /detokenize of that one token
  std::string bytes;  // the token itself: perhaps no whole character, control tokens as text
  float logprob = 0;
};

struct token_logprob {
  token id = -1;
  std::string text;              // /detokenize of this one token
  std::string bytes;             // the token itself
  std::optional<float> logprob;  // absent for the first token of an echoed prompt
  std::vector<alternative> top;  // best first, the chosen token appended if absent
  std::int64_t text_offset = 0;  // characters before it in this choice's text
  bool appended = false;         // the last of top is the chosen token, beyond those asked for
};

struct usage {
  int prompt_tokens = 0, completion_tokens = 0, cached_tokens = 0;
};

// Events of one request arrive in order; exactly one done_event or error_event is the last.
struct token_event {
  int choice = 0;
  std::string text;                     // whole characters; may be empty while text is held back
  std::vector<token> ids;               // the tokens behind it
  std::vector<token_logprob> logprobs;  // when asked for
};
struct choice_event {  // one choice ended; no more text of it follows
  int choice = 0;
  finish_reason reason = finish_reason::stop;
};
struct done_event {
  std::vector<finish_reason> reasons;  // [n]
  foretoken::actors::usage usage;
};
struct tokens_event {  // the answer, and the end, of a tokenize request
  std::vector<token> ids;
};
struct error_event {
  error failure;
};

struct event {
  request_id request{};
  std::variant<token_event, choice_event, done_event, tokens_event, error_event> what;
  bool terminal() const noexcept { return what.index() >= 2; }
};

}  // namespace foretoken::actors
