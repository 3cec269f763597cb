// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/tokenizer.hpp"

#include "tokenizer/validate.hpp"
#include "tokenizer/vocabulary_index.hpp"

namespace foretoken::tokenizer {

result<std::shared_ptr<const tokenizer>> tokenizer::make(vocabulary_spec spec) {
  FORETOKEN_TRY(validate(spec));
  switch (spec.kind) {
    case algorithm::byte_level_bpe: return make_byte_level(std::move(spec));
    case algorithm::sentencepiece_bpe: return make_sentencepiece(std::move(spec));
  }
  return corrupt("tokenizer.kind", "the tokenizer's algorithm is not known");
}

}  // namespace foretoken::tokenizer
