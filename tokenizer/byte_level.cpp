// SPDX-License-Identifier: Apache-2.0
// Byte-level BPE (gpt2, llama3, qwen2, smollm).

#include "tokenizer/byte_alphabet.hpp"
#include "tokenizer/pre_tokenize.hpp"
#include "tokenizer/unicode.hpp"
#include "tokenizer/vocabulary_index.hpp"

namespace foretoken::tokenizer {
namespace {

class byte_level final : public vocabulary_index {
 public:
  explicit byte_level(vocabulary_spec spec) : vocabulary_index(std::move(spec)) {}

  status prepare() {
    make_tables([](const std::string& piece, token_kind kind) {
      if (kind != token_kind::normal) return piece;
      // A piece outside the alphabet is an added token that the file calls normal.
      return alphabet_to_bytes(piece).value_or(piece);
    });
    for (std::size_t byte = 0; byte < 256; ++byte) {
      byte_tokens_[byte] = find_piece(byte_to_alphabet(static_cast<std::uint8_t>(byte)));
    }
    return make_merges();
  }

 protected:
  void encode_plain(std::string_view text, bool, std::vector<token>& out) const override {
    if (!spec_.normalise_nfc) return encode_normal(text, out);
    const std::string normal = normalise_nfc(text);
    encode_normal(normal, out);
  }

 private:
  void encode_normal(std::string_view text, std::vector<token>& out) const {
    std::vector<std::string_view> pieces;
    pieces.reserve(text.size() / 4 + 1);
    pre_tokenize(spec_.pre, text, pieces);
    std::vector<token> symbols;
    for (const std::string_view piece : pieces) encode_piece(piece, symbols, out);
  }

  void encode_piece(std::string_view piece,
                    std::vector<token>& symbols,
                    std::vector<token>& out) const {
    if (spec_.ignore_merges) {
      if (const token whole = find_piece(in_alphabet(piece)); whole >= 0) {
        out.push_back(whole);
        return;
      }
    }
    symbols.clear();
    for (const char byte : piece) {
      // Some vocabularies lack bytes that their training never saw; these are dropped, as the
      // programs the models were trained with do.
      const token id = byte_tokens_[static_cast<std::uint8_t>(byte)];
      if (id >= 0) symbols.push_back(id);
    }
    merges_.merge(symbols);
    out.insert(out.end(), symbols.begin(), symbols.end());
  }

  static std::string in_alphabet(std::string_view piece) {
    std::string out;
    for (const char byte : piece) out += byte_to_alphabet(static_cast<std::uint8_t>(byte));
    return out;
  }

  std::array<token, 256> byte_tokens_{};
};

}  // namespace

result<std::shared_ptr<const tokenizer>> make_byte_level(vocabulary_spec spec) {
  auto made = std::make_shared<byte_level>(std::move(spec));
  FORETOKEN_TRY(made->prepare());
  return std::shared_ptr<const tokenizer>(std::move(made));
}

}  // namespace foretoken::tokenizer
