// SPDX-License-Identifier: Apache-2.0
#pragma once
// What a model file says about its tokenizer, in one form for GGUF metadata and tokenizer.json.

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/ids.hpp"

namespace foretoken::tokenizer {

enum class algorithm { byte_level_bpe, sentencepiece_bpe };

// Pre-tokenizers that are compiled in; a file's own expression is matched against them, never run.
enum class pre_tokenizer { none, gpt2, llama3, qwen2, smollm };

enum class token_kind : std::uint8_t {
  normal,
  control,  // <|im_end|>: plain text in user input unless asked for; omitted from generated text
  user_defined,  // always matched in text
  byte,          // SentencePiece <0xNN>
  unknown,
  unused,
};

// Where SentencePiece puts a space in front of a stretch of plain text, which added tokens end.
enum class space_prefix : std::uint8_t {
  never,
  always,   // whatever the stretch begins with: SentencePiece itself, and the normalizer Prepend
  missing,  // where it does not begin with a space: Metaspace "always"
  missing_at_start,  // the same, for the stretch that begins the text: Metaspace "first"
};

struct vocabulary_spec {
  algorithm kind = algorithm::byte_level_bpe;
  pre_tokenizer pre = pre_tokenizer::gpt2;
  std::vector<std::string> pieces;  // [vocabulary] as stored: byte-level alphabet, or with U+2581
  std::vector<token_kind> kinds;    // [vocabulary]
  std::vector<float> scores;        // [vocabulary] for SentencePiece, else empty
  // Byte-level BPE: merges best first, as pairs of token texts. SentencePiece from tokenizer.json
  // also has merges; from GGUF it has scores instead.
  std::vector<std::pair<std::string, std::string>> merges;
  token bos = -1, eos = -1, unknown = -1, pad = -1;
  std::vector<token>
      end_of_generation;  // every token that ends a text (eos, <|endoftext|>, eot ...)
  bool add_bos = false;
  bool add_eos = false;
  space_prefix prefix = space_prefix::never;
  bool normalise_nfc = false;  // qwen2
  bool ignore_merges = false;  // llama3: a whole pre-token that is in the vocabulary is one token
  bool byte_fallback = false;
};

}  // namespace foretoken::tokenizer
