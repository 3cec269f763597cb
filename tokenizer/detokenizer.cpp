// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/detokenizer.hpp"

#include <algorithm>

#include "tokenizer/unicode.hpp"

namespace foretoken::tokenizer {

detokenizer::detokenizer(std::shared_ptr<const tokenizer> source, bool at_start)
    : source_(std::move(source)), at_start_(at_start && source_->drops_leading_space()) {}

void detokenizer::push(token id, std::string& out) {
  if (source_->is_control(id)) return;
  std::string_view bytes = source_->bytes(id, false);
  if (at_start_ && !bytes.empty() && bytes.front() == ' ') bytes.remove_prefix(1);
  at_start_ = false;
  pending_.append(bytes);
  const std::size_t unfinished = append_valid_utf8(pending_, out);
  pending_.erase(0, pending_.size() - unfinished);
}

void detokenizer::finish(std::string& out) {
  if (!pending_.empty()) out.append("\xEF\xBF\xBD");
  pending_.clear();
}

stop_matcher::stop_matcher(std::vector<std::string> stops) : stops_(std::move(stops)) {
  std::erase_if(stops_, [](const std::string& stop) { return stop.empty(); });
}

bool stop_matcher::push(std::string_view text, std::string& out) {
  if (stopped_) return true;
  held_.append(text);
  // The stop that ends first wins, then the longest: so the cut does not depend on how the text
  // was chunked.
  std::size_t best_begin = 0;
  std::size_t best_end = std::string::npos;
  for (const std::string& stop : stops_) {
    const std::size_t begin = held_.find(stop);
    if (begin == std::string::npos) continue;
    const std::size_t end = begin + stop.size();
    if (end < best_end || (end == best_end && begin < best_begin)) {
      best_begin = begin;
      best_end = end;
    }
  }
  if (best_end != std::string::npos) {
    out.append(held_, 0, best_begin);
    held_.clear();
    stopped_ = true;
    return true;
  }
  std::size_t hold = 0;  // the longest end of the text that begins a stop string
  for (const std::string& stop : stops_) {
    for (std::size_t n = std::min(stop.size() - 1, held_.size()); n > hold; --n) {
      if (std::string_view(held_).substr(held_.size() - n) == std::string_view(stop).substr(0, n)) {
        hold = n;
      }
    }
  }
  out.append(held_, 0, held_.size() - hold);
  held_.erase(0, held_.size() - hold);
  return false;
}

void stop_matcher::finish(std::string& out) {
  out.append(held_);
  held_.clear();
}

}  // namespace foretoken::tokenizer
