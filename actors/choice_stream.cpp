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
  entry.text_offset = seen_characters_;
  if (scored == nullptr) return entry;
  entry.logprob = scored->logprob;
  bool present = false;
  for (const auto& candidate : scored->top) {
    entry.top.push_back({candidate.id, words_->decode({candidate.id}), candidate.logprob});
    present = present || candidate.id == id;
  }
  entry.appended = !present;
  if (!present) entry.top.push_back({id, entry.text, scored->logprob});
  return entry;
}

void choice_stream::echo(const std::vector<token>& prompt, std::string text, token_event& out) {
  if (logprobs_) {
    held_.push_back(describe(prompt.front(), nullptr));
    seen_characters_ += characters(words_->bytes(prompt.front(), true));
    scored_ = 1;
  }
  out.ids.insert(out.ids.end(), prompt.begin(), prompt.end());
  sent_characters_ += characters(text);
  out.text += text;
}

void choice_stream::echo_scores(const std::vector<token>& prompt,
                                const std::vector<model::sampled>& scores,
                                token_event& out) {
  for (const auto& scored : scores) {
    if (scored_ >= prompt.size()) break;
    const token id = prompt[scored_++];
    held_.push_back(describe(id, &scored));
    seen_characters_ += characters(words_->bytes(id, true));
  }
  release(out, scored_ == prompt.size());
  if (scored_ == prompt.size()) seen_characters_ = sent_characters_;
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
