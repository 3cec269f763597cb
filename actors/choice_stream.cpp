// SPDX-License-Identifier: Apache-2.0
#include "actors/choice_stream.hpp"

#include <algorithm>
#include <utility>

namespace foretoken::actors {

std::int64_t characters(std::string_view text) noexcept {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xC0u) != 0x80u; });
}

choice_stream::choice_stream(std::shared_ptr<const tokenizer::tokenizer> words,
                             const generate_request& request)
    : words_(words),
      detokenizer_(std::move(words)),
      stops_(request.stop),
      logprobs_(request.sampling.logprobs >= 0) {}

token_logprob choice_stream::describe(token id, const model::sampled* scored) {
  token_logprob entry;
  entry.id = id;
  entry.text = words_->decode({id});
  entry.bytes = words_->bytes(id, true);
  entry.text_offset = seen_characters_;
  if (scored == nullptr) return entry;
  entry.logprob = scored->logprob;
  bool present = false;
  for (const auto& candidate : scored->top) {
    entry.top.push_back({candidate.id, words_->decode({candidate.id}),
                         std::string(words_->bytes(candidate.id, true)), candidate.logprob});
    present = present || candidate.id == id;
  }
  entry.appended = !present;
  if (!present) entry.top.push_back({id, entry.text, entry.bytes, scored->logprob});
  return entry;
}

// Where in `text` the tokens begin, in characters below zero: a BOS that was added and the space
// that SentencePiece puts in front are tokens, but not text.
std::int64_t choice_stream::before_text(const std::vector<token>& prompt,
                                        std::string_view text) const {
  std::string all;
  for (const auto id : prompt) all += words_->bytes(id, true);
  const auto at = all.ends_with(text) ? all.size() - text.size() : all.rfind(text);
  if (at != std::string::npos) return characters(std::string_view(all).substr(0, at));
  return std::max<std::int64_t>(0, characters(all) - characters(text));
}

void choice_stream::echo(const std::vector<token>& prompt, std::string text, token_event& out) {
  echo_text_ = std::move(text);
  if (!logprobs_) return release_echo(prompt, out);
  echo_characters_ = characters(echo_text_);
  seen_characters_ = -before_text(prompt, echo_text_);
  describe_echo(prompt.front(), nullptr);
  if (prompt.size() == 1) release_echo(prompt, out);
}

void choice_stream::echo_scores(const std::vector<token>& prompt,
                                const std::vector<model::sampled>& scores,
                                token_event& out) {
  for (const auto& scored : scores) {
    if (echoed_ >= prompt.size()) return;
    describe_echo(prompt[echoed_], &scored);
    if (echoed_ == prompt.size()) release_echo(prompt, out);
  }
}

void choice_stream::describe_echo(token id, const model::sampled* scored) {
  auto entry = describe(id, scored);
  entry.text_offset = std::clamp<std::int64_t>(entry.text_offset, 0, echo_characters_);
  held_.push_back(std::move(entry));
  seen_characters_ += characters(words_->bytes(id, true));
  ++echoed_;
}

// The whole prompt in one piece, with its scores.
void choice_stream::release_echo(const std::vector<token>& prompt, token_event& out) {
  out.ids.insert(out.ids.end(), prompt.begin(), prompt.end());
  out.text += echo_text_;
  sent_characters_ = seen_characters_ = characters(echo_text_);
  echo_text_ = {};
  release(out, true);
}

bool choice_stream::push(const model::sampled& chosen, token_event& out) {
  held_ids_.push_back(chosen.id);
  if (logprobs_) held_.push_back(describe(chosen.id, &chosen));
  seen_characters_ += characters(words_->bytes(chosen.id, false));
  std::string text;
  detokenizer_.push(chosen.id, text);
  const auto before = out.text.size();
  const bool stopped = stops_.push(text, out.text);
  sent_characters_ += characters(std::string_view(out.text).substr(before));
  release(out, false);
  return stopped;
}

void choice_stream::finish(token_event& out) {
  std::string rest;
  detokenizer_.finish(rest);
  const auto before = out.text.size();
  const bool stopped = stops_.push(rest, out.text);
  if (!stopped) stops_.finish(out.text);
  sent_characters_ += characters(std::string_view(out.text).substr(before));
  release(out, !stopped);
}

// An entry leaves once the first character of its text has left; at the end of a choice, all do.
void choice_stream::release(token_event& out, bool all) {
  const auto held_back = [&](const token_logprob& entry) {
    return !all && entry.text_offset >= sent_characters_ && seen_characters_ > sent_characters_;
  };
  const auto first = std::find_if(held_.begin(), held_.end(), held_back);
  std::move(held_.begin(), first, std::back_inserter(out.logprobs));
  held_.erase(held_.begin(), first);
  if (held_.empty() || !logprobs_) {
    out.ids.insert(out.ids.end(), held_ids_.begin(), held_ids_.end());
    held_ids_.clear();
  }
}

}  // namespace foretoken::actors
