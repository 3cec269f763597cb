// SPDX-License-Identifier: Apache-2.0
// SentencePiece BPE (llama, gemma): from scores as GGUF stores them, or from merges as
// tokenizer.json does. A space is U+2581; what has no piece is spelled in byte tokens.

#include <algorithm>
#include <queue>
#include <tuple>

#include "tokenizer/unicode.hpp"
#include "tokenizer/validate.hpp"
#include "tokenizer/vocabulary_index.hpp"

namespace foretoken::tokenizer {
namespace {

constexpr std::string_view space_mark = "\xE2\x96\x81";

std::string unescape(std::string_view piece) {
  std::string out;
  for (std::size_t at = 0; at < piece.size();) {
    const std::size_t mark = std::min(piece.find(space_mark, at), piece.size());
    out.append(piece.substr(at, mark - at));
    if (mark < piece.size()) out.push_back(' ');
    at = mark + space_mark.size();
  }
  return out;
}

// One symbol: bytes [begin, begin + size) of the text, in a list; size 0 = merged into its left.
struct span_symbol {
  std::uint32_t begin, size, previous, next;
};

struct candidate {
  float score;
  std::uint32_t left, right, size;  // size: of the joined text, to see whether it is out of date
  bool operator<(const candidate& other) const noexcept {
    if (score != other.score) return score < other.score;
    return left > other.left;  // the leftmost of equals comes first
  }
};

class sentencepiece final : public vocabulary_index {
 public:
  explicit sentencepiece(vocabulary_spec spec)
      : vocabulary_index(std::move(spec)), by_scores_(spec_.merges.empty()) {
    mark_byte_tokens();
  }

  status prepare() {
    make_tables([](const std::string& piece, token_kind kind) {
      if (kind == token_kind::byte) return std::string(1, static_cast<char>(*byte_piece(piece)));
      return unescape(piece);
    });
    byte_tokens_.fill(-1);
    for (std::size_t i = 0; i < spec_.pieces.size(); ++i) {
      if (spec_.kinds[i] == token_kind::byte) {
        byte_tokens_[*byte_piece(spec_.pieces[i])] = static_cast<token>(i);
      } else if (spec_.kinds[i] == token_kind::normal ||
                 spec_.kinds[i] == token_kind::user_defined) {
        piece_bytes_max_ = std::max(piece_bytes_max_, spec_.pieces[i].size());
      }
    }
    return by_scores_ ? status{} : make_merges();
  }

 protected:
  void encode_plain(std::string_view text, bool at_start, std::vector<token>& out) const override {
    std::string escaped;
    escaped.reserve(text.size() + text.size() / 4 + 4);
    if (adds_space(text, at_start)) escaped.append(space_mark);
    for (const char c : text) c == ' ' ? escaped.append(space_mark) : escaped.append(1, c);
    by_scores_ ? encode_by_scores(escaped, out) : encode_by_merges(escaped, out);
  }

 private:
  bool adds_space(std::string_view text, bool at_start) const noexcept {
    const bool missing = !text.starts_with(' ') && !text.starts_with(space_mark);
    switch (spec_.prefix) {
      case space_prefix::never: return false;
      case space_prefix::always: return true;
      case space_prefix::missing: return missing;
      case space_prefix::missing_at_start: return missing && at_start;
    }
    return false;
  }

  // tokenizer.json has no kinds: there the byte tokens are known by their form alone.
  void mark_byte_tokens() {
    if (!spec_.byte_fallback) return;
    for (std::size_t i = 0; i < spec_.pieces.size(); ++i) {
      if (spec_.kinds[i] == token_kind::normal && byte_piece(spec_.pieces[i])) {
        spec_.kinds[i] = token_kind::byte;
      }
    }
  }

  void spell(std::string_view text, std::vector<token>& out) const {
    const bool spelled = std::all_of(text.begin(), text.end(), [this](char c) {
      return byte_tokens_[static_cast<std::uint8_t>(c)] >= 0;
    });
    if (spelled) {
      for (const char c : text) out.push_back(byte_tokens_[static_cast<std::uint8_t>(c)]);
    } else if (spec_.unknown >= 0 && (out.empty() || out.back() != spec_.unknown)) {
      out.push_back(spec_.unknown);  // one for a run of unknown characters
    }
  }

  void encode_by_merges(std::string_view text, std::vector<token>& out) const {
    std::vector<token> symbols;
    symbols.reserve(text.size());
    while (!text.empty()) {
      const std::string_view one = text.substr(0, character_bytes(text));
      if (const token id = find_piece(one); id >= 0) {
        symbols.push_back(id);
      } else {
        spell(one, symbols);
      }
      text.remove_prefix(one.size());
    }
    merges_.merge(symbols);
    out.insert(out.end(), symbols.begin(), symbols.end());
  }

  void encode_by_scores(std::string_view text, std::vector<token>& out) const {
    std::vector<span_symbol> symbols = split_characters(text);
    std::priority_queue<candidate> queue;
    const auto offer = [&](std::uint32_t left, std::uint32_t right) {
      if (left >= symbols.size() || right >= symbols.size()) return;
      const std::uint32_t size = symbols[left].size + symbols[right].size;
      if (size > piece_bytes_max_) return;
      const token id = find_piece(text.substr(symbols[left].begin, size));
      if (id >= 0) queue.push({spec_.scores[static_cast<std::size_t>(id)], left, right, size});
    };
    for (std::uint32_t i = 1; i < symbols.size(); ++i) offer(i - 1, i);
    while (!queue.empty()) {
      const candidate top = queue.top();
      queue.pop();
      span_symbol& left = symbols[top.left];
      span_symbol& right = symbols[top.right];
      if (left.size == 0 || right.size == 0 || left.size + right.size != top.size) continue;
      left.size = top.size;
      right.size = 0;
      left.next = right.next;
      if (right.next < symbols.size()) symbols[right.next].previous = top.left;
      offer(left.previous, top.left);
      offer(top.left, left.next);
    }
    for (const span_symbol& symbol : symbols) {
      if (symbol.size == 0) continue;
      const std::string_view piece = text.substr(symbol.begin, symbol.size);
      if (const token id = find_piece(piece); id >= 0) {
        out.push_back(id);
      } else {
        spell(piece, out);
      }
    }
  }

  static std::vector<span_symbol> split_characters(std::string_view text) {
    std::vector<span_symbol> symbols;
    symbols.reserve(text.size());
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t size = character_bytes(text.substr(at));
      const auto i = static_cast<std::uint32_t>(symbols.size());
      symbols.push_back(
          {static_cast<std::uint32_t>(at), static_cast<std::uint32_t>(size), i - 1U, i + 1U});
      at += size;
    }
    return symbols;
  }

  bool by_scores_;
  std::size_t piece_bytes_max_ = 0;
  std::array<token, 256> byte_tokens_{};
};

}  // namespace

result<std::shared_ptr<const tokenizer>> make_sentencepiece(vocabulary_spec spec) {
  auto made = std::make_shared<sentencepiece>(std::move(spec));
  FORETOKEN_TRY(made->prepare());
  return std::shared_ptr<const tokenizer>(std::move(made));
}

}  // namespace foretoken::tokenizer
