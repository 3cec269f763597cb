// SPDX-License-Identifier: Apache-2.0
#pragma once
// The text of one choice: tokens in, whole characters out, cut at the first stop string, with
// log-probabilities that leave together with the text they belong to. Plain object, one thread.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "actors/request.hpp"
#include "tokenizer/detokenizer.hpp"
#include "tokenizer/tokenizer.hpp"

namespace foretoken::actors {

class choice_stream {
 public:
  choice_stream(std::shared_ptr<const tokenizer::tokenizer> words, const generate_request& request);

  // The echoed prompt, in one piece: at once when no log-probabilities are wanted, else when the
  // last of its tokens has its scores.
  void echo(const std::vector<token>& prompt, std::string text, token_event& out);
  void echo_scores(const std::vector<token>& prompt,
                   const std::vector<model::sampled>& scores,
                   token_event& out);

  // One generated token. True when a stop string was found: nothing more may be pushed.
  bool push(const model::sampled& chosen, token_event& out);
  // The end without a stop string: what was held back leaves.
  void finish(token_event& out);

 private:
  token_logprob describe(token id, const model::sampled* scored);
  void release(token_event& out, bool all);
  std::int64_t before_text(const std::vector<token>& prompt, std::string_view text) const;
  void describe_echo(token id, const model::sampled* scored);
  void release_echo(const std::vector<token>& prompt, token_event& out);

  std::shared_ptr<const tokenizer::tokenizer> words_;
  tokenizer::detokenizer detokenizer_;
  tokenizer::stop_matcher stops_;
  bool logprobs_;
  std::int64_t sent_characters_ = 0;  // characters of this choice's text that have left
  std::int64_t seen_characters_ = 0;  // characters that began in any token so far
  std::vector<token> held_ids_;
  std::vector<token_logprob> held_;  // wait for their text
  std::string echo_text_;            // waits for its scores
  std::int64_t echo_characters_ = 0;
  std::size_t echoed_ = 0;  // prompt tokens already described
};

// Characters that begin in `text`: every byte that does not continue one.
std::int64_t characters(std::string_view text) noexcept;

}  // namespace foretoken::actors
