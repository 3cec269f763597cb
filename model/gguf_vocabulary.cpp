// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>

#include "model/gguf_model.hpp"
#include "model/shape_rules.hpp"
#include "model/vocabulary_checks.hpp"

namespace foretoken::model {
namespace {

using tokenizer::algorithm;
using tokenizer::pre_tokenizer;
using tokenizer::space_prefix;
using tokenizer::token_kind;
using tokenizer::vocabulary_spec;

const std::string keys_of_tokenizer = "tokenizer.ggml.";

struct pre_tokenizer_name {
  const char* name;
  pre_tokenizer pre;
  bool normalise_nfc, ignore_merges, add_bos;
};
constexpr std::array<pre_tokenizer_name, 7> pre_tokenizers{
    {{"gpt-2", pre_tokenizer::gpt2, false, false, false},
     {"smollm", pre_tokenizer::smollm, false, false, false},
     {"llama-bpe", pre_tokenizer::llama3, false, true, true},
     {"llama3", pre_tokenizer::llama3, false, true, true},
     {"llama-v3", pre_tokenizer::llama3, false, true, true},
     {"qwen2", pre_tokenizer::qwen2, true, false, false},
     {"deepseek-r1-qwen", pre_tokenizer::qwen2, false, false, false}}};

// Files made before the key existed: the architecture says it where only one is possible.
std::string default_pre(architecture arch) {
  if (arch == architecture::gpt2) return "gpt-2";
  if (arch == architecture::qwen2 || arch == architecture::qwen3) return "qwen2";
  return "";
}

status read_pre_tokenizer(gguf_reader& keys, architecture arch, vocabulary_spec& spec) {
  const std::string key = keys_of_tokenizer + "pre";
  const std::string name = keys.text(key, default_pre(arch));
  FORETOKEN_TRY(keys.outcome());
  for (const auto& known : pre_tokenizers) {
    if (name != known.name) continue;
    spec.pre = known.pre;
    spec.normalise_nfc = known.normalise_nfc;
    spec.ignore_merges = known.ignore_merges;
    spec.add_bos = known.add_bos;
    return {};
  }
  return unsupported(
      key, "the pre-tokenizer '" + name + "' is not one of gpt-2, smollm, llama-bpe, qwen2");
}

status read_pieces(const gguf_contents& from, int vocabulary, vocabulary_spec& spec) {
  const std::string key = keys_of_tokenizer + "tokens";
  const auto pieces = gguf_strings(from, key);
  if (!pieces) return pieces.error();
  if (pieces->size() != static_cast<std::size_t>(vocabulary)) {
    return corrupt(key, std::to_string(pieces->size()) + " tokens, but the embedding has " +
                            std::to_string(vocabulary) + " rows");
  }
  spec.pieces.assign(pieces->begin(), pieces->end());
  return {};
}

status read_kinds(const gguf_contents& from, vocabulary_spec& spec) {
  const std::string key = keys_of_tokenizer + "token_type";
  const auto types = gguf_integers(from, key);
  if (!types) return types.error();
  spec.kinds.assign(spec.pieces.size(), token_kind::normal);
  if (types->empty()) return {};
  if (types->size() != spec.pieces.size())
    return corrupt(key, "as many entries as tokens are needed");
  constexpr std::array kinds{token_kind::normal,       token_kind::unknown, token_kind::control,
                             token_kind::user_defined, token_kind::unused,  token_kind::byte};
  for (std::size_t i = 0; i < types->size(); ++i) {
    const std::int64_t type = (*types)[i];
    if (type < 1 || type > 6) return corrupt(key, "token types are 1 to 6");
    spec.kinds[i] = kinds[static_cast<std::size_t>(type - 1)];
  }
  return {};
}

status read_merges(const gguf_contents& from, vocabulary_spec& spec) {
  const std::string key = keys_of_tokenizer + "merges";
  const auto merges = gguf_strings(from, key);
  if (!merges) return merges.error();
  if (merges->empty()) return corrupt(key, "this key is missing or empty");
  spec.merges.reserve(merges->size());
  for (const std::string_view merge : *merges) {
    const auto space = merge.find(' ', 1);  // a token may begin with a space, never be empty
    if (space == std::string_view::npos || space + 1 >= merge.size()) {
      return corrupt(key, "a merge is not two tokens with a space between");
    }
    spec.merges.emplace_back(merge.substr(0, space), merge.substr(space + 1));
  }
  return {};
}

status read_scores(const gguf_contents& from, vocabulary_spec& spec) {
  const std::string key = keys_of_tokenizer + "scores";
  auto scores = gguf_floats(from, key);
  if (!scores) return scores.error();
  if (scores->size() != spec.pieces.size())
    return corrupt(key, "as many scores as tokens are needed");
  if (std::any_of(scores->begin(), scores->end(), [](float s) { return s != s; })) {
    return corrupt(key, "a score is not a number");
  }
  spec.scores = std::move(*scores);
  return {};
}

token read_id(gguf_reader& keys, const char* name, int vocabulary) {
  return keys.integer(keys_of_tokenizer + name, 0, vocabulary - 1, -1);
}

void read_special(gguf_reader& keys, int vocabulary, vocabulary_spec& spec) {
  spec.bos = read_id(keys, "bos_token_id", vocabulary);
  spec.eos = read_id(keys, "eos_token_id", vocabulary);
  spec.unknown = read_id(keys, "unknown_token_id", vocabulary);
  spec.pad = read_id(keys, "padding_token_id", vocabulary);
  for (const char* name : {"eot_token_id", "eom_token_id"}) {
    if (const token id = read_id(keys, name, vocabulary); id >= 0) {
      spec.end_of_generation.push_back(id);
    }
  }
  spec.add_bos = keys.flag(keys_of_tokenizer + "add_bos_token", spec.add_bos) && spec.bos >= 0;
  spec.add_eos = keys.flag(keys_of_tokenizer + "add_eos_token", false) && spec.eos >= 0;
  const bool by_default = spec.kind == algorithm::sentencepiece_bpe;
  if (keys.flag(keys_of_tokenizer + "add_space_prefix", by_default)) {
    spec.prefix = space_prefix::always;
  }
}

}  // namespace

result<vocabulary_spec> gguf_vocabulary(const gguf_contents& from, const hyperparameters& shape) {
  gguf_reader keys(from);
  vocabulary_spec spec;
  const std::string model = keys.text(keys_of_tokenizer + "model");
  FORETOKEN_TRY(keys.outcome());
  FORETOKEN_TRY(read_pieces(from, shape.vocabulary, spec));
  FORETOKEN_TRY(read_kinds(from, spec));
  if (model == "gpt2") {
    spec.kind = algorithm::byte_level_bpe;
    FORETOKEN_TRY(read_pre_tokenizer(keys, shape.arch, spec));
    FORETOKEN_TRY(read_merges(from, spec));
  } else if (model == "llama") {
    spec.kind = algorithm::sentencepiece_bpe;
    spec.pre = pre_tokenizer::none;
    spec.add_bos = true;
    FORETOKEN_TRY(read_scores(from, spec));
    spec.byte_fallback =
        std::find(spec.kinds.begin(), spec.kinds.end(), token_kind::byte) != spec.kinds.end();
  } else {
    return unsupported(keys_of_tokenizer + "model",
                       "the tokenizer '" + model + "' is not one of gpt2, llama");
  }
  read_special(keys, shape.vocabulary, spec);
  FORETOKEN_TRY(keys.outcome());
  complete_end_of_generation(spec);
  FORETOKEN_TRY(check_vocabulary(spec, keys_of_tokenizer));
  return spec;
}

}  // namespace foretoken::model
