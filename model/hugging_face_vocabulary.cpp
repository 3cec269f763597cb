// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <initializer_list>

#include "model/hugging_face.hpp"
#include "model/shape_rules.hpp"
#include "model/vocabulary_checks.hpp"

namespace foretoken::model {
namespace {

using tokenizer::algorithm;
using tokenizer::pre_tokenizer;
using tokenizer::space_prefix;
using tokenizer::token_kind;
using tokenizer::vocabulary_spec;

constexpr std::string_view underline = "\xE2\x96\x81";  // U+2581, SentencePiece's space

constexpr std::string_view llama3_split =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view qwen2_split =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view gpt2_split =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

error bad(const std::string& key, std::string message) {
  return corrupt("tokenizer.json " + key, std::move(message));
}
error unknown(const std::string& key, std::string message) {
  return unsupported("tokenizer.json " + key, std::move(message));
}

bool is_type(const json* node, const char* name) {
  const json* type = node == nullptr ? nullptr : member(*node, "type");
  return type != nullptr && *type == name;
}
bool is_set(const json& node, const char* key) {
  const json* value = member(node, key);
  return value != nullptr && *value == true;
}
bool holds(const json& node, const char* key, std::string_view text) {
  const json* value = member(node, key);
  return value != nullptr && value->is_string() && value->get_ref<const std::string&>() == text;
}

// One node, or the members of a Sequence.
std::vector<const json*> parts_of(const json& root, const char* key, const char* list_key) {
  const json* node = member(root, key);
  if (node == nullptr) return {};
  if (!is_type(node, "Sequence")) return {node};
  std::vector<const json*> parts;
  const json* list = member(*node, list_key);
  if (list == nullptr || !list->is_array()) return {node};  // refused later, as an unknown type
  for (const json& part : *list) parts.push_back(&part);
  return parts;
}

result<token> read_token_id(const json* value, const std::string& key) {
  if (value == nullptr || !value->is_number_unsigned() ||
      value->get<std::uint64_t>() >= static_cast<std::uint64_t>(vocabulary_max)) {
    return bad(key, "an id is not a whole number within the vocabulary");
  }
  return value->get<token>();
}

status put_piece(vocabulary_spec& spec,
                 std::vector<bool>& taken,
                 token id,
                 const std::string& piece,
                 token_kind kind) {
  const auto at = static_cast<std::size_t>(id);
  if (at >= taken.size())
    return bad("model.vocab", "an id is past the number of tokens: there is a gap");
  if (taken[at] && spec.pieces[at] != piece) {
    return bad("model.vocab", "two tokens have the id " + std::to_string(id));
  }
  taken[at] = true;
  spec.pieces[at] = piece;
  spec.kinds[at] = kind;
  return {};
}

status put_added(vocabulary_spec& spec, std::vector<bool>& taken, const json& added) {
  const std::string key = "added_tokens";
  const auto& content = added["content"].get_ref<const std::string&>();  // checked by the caller
  for (const char* rule : {"single_word", "lstrip", "rstrip"}) {
    if (is_set(added, rule)) return unknown(key, std::string(rule) + " is not supported");
  }
  const auto id = read_token_id(member(added, "id"), key);
  if (!id) return id.error();
  return put_piece(spec, taken, *id, content,
                   is_set(added, "special") ? token_kind::control : token_kind::user_defined);
}

status read_pieces(const json& root, const json& model, int vocabulary, vocabulary_spec& spec) {
  const json* vocab = member(model, "vocab");
  if (vocab == nullptr || !vocab->is_object()) return bad("model.vocab", "this must be an object");
  const json* added = member(root, "added_tokens");
  if (added != nullptr && !added->is_array()) return bad("added_tokens", "this must be an array");
  std::size_t count = vocab->size();
  for (std::size_t i = 0; added != nullptr && i < added->size(); ++i) {
    const json* content = member((*added)[i], "content");
    if (content == nullptr || !content->is_string() ||
        content->get_ref<const std::string&>().empty()) {
      return bad("added_tokens", "an added token has no text");
    }
    if (!vocab->contains(content->get_ref<const std::string&>())) ++count;
  }
  if (count > static_cast<std::size_t>(vocabulary)) {
    return bad("model.vocab", std::to_string(count) + " tokens, but the embedding has " +
                                  std::to_string(vocabulary) + " rows");
  }
  spec.pieces.resize(count);
  spec.kinds.resize(count);
  std::vector<bool> taken(count);
  for (const auto& item : vocab->items()) {
    const auto id = read_token_id(&item.value(), "model.vocab");
    if (!id) return id.error();
    if (static_cast<std::size_t>(*id) < count && taken[static_cast<std::size_t>(*id)]) {
      return bad("model.vocab", "two tokens have the id " + std::to_string(*id));
    }
    const bool byte = spec.byte_fallback && is_byte_piece(item.key());
    FORETOKEN_TRY(
        put_piece(spec, taken, *id, item.key(), byte ? token_kind::byte : token_kind::normal));
  }
  for (std::size_t i = 0; added != nullptr && i < added->size(); ++i) {
    FORETOKEN_TRY(put_added(spec, taken, (*added)[i]));
  }
  if (std::find(taken.begin(), taken.end(), false) != taken.end()) {
    return bad("model.vocab", "the ids have a gap");
  }
  // Embeddings are often padded to a round number of rows; nothing ever means those.
  spec.kinds.resize(static_cast<std::size_t>(vocabulary), token_kind::unused);
  for (std::size_t i = count; i < spec.kinds.size(); ++i) {
    spec.pieces.push_back("[unused " + std::to_string(i) + "]");
  }
  return {};
}

status read_merges(const json& model, vocabulary_spec& spec) {
  const std::string key = "model.merges";
  const json* merges = member(model, "merges");
  if (merges == nullptr || !merges->is_array()) return bad(key, "this must be an array");
  spec.merges.reserve(merges->size());
  for (const json& merge : *merges) {
    if (merge.is_string()) {
      const auto& text = merge.get_ref<const std::string&>();
      const auto space = text.find(' ', 1);
      if (space == std::string::npos || space + 1 >= text.size()) {
        return bad(key, "a merge is not two tokens with a space between");
      }
      spec.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
               merge[1].is_string()) {
      spec.merges.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
    } else {
      return bad(key, "a merge is not two tokens");
    }
  }
  return {};
}

status read_split(const json& part, vocabulary_spec& spec) {
  const json* pattern = member(part, "pattern");
  const std::string key = "pre_tokenizer.pattern";
  if (pattern == nullptr) return bad(key, "this key is missing");
  if (spec.kind == algorithm::sentencepiece_bpe && holds(*pattern, "String", " ")) {
    return {};  // spaces were already replaced, so this one (gemma) never matches
  }
  if (!holds(part, "behavior", "Isolated") || is_set(part, "invert")) {
    return unknown("pre_tokenizer.behavior",
                   "only splits that isolate their matches are supported");
  }
  if (holds(*pattern, "Regex", llama3_split)) {
    spec.pre = pre_tokenizer::llama3;
  } else if (holds(*pattern, "Regex", qwen2_split)) {
    spec.pre = pre_tokenizer::qwen2;
  } else if (holds(*pattern, "Regex", gpt2_split)) {
    spec.pre = pre_tokenizer::gpt2;
  } else {
    return unknown(key, "the expression is not that of gpt2, llama3, qwen2 or smollm");
  }
  return {};
}

status read_metaspace(const json& part, vocabulary_spec& spec) {
  const json* split = member(part, "split");
  if (split == nullptr || *split != false) {
    return unknown("pre_tokenizer.split", "only Metaspace without split is supported");
  }
  if (!holds(part, "replacement", underline)) {
    return unknown("pre_tokenizer.replacement", "only U+2581 is supported");
  }
  const json* scheme = member(part, "prepend_scheme");
  space_prefix prefix = space_prefix::never;
  if (scheme == nullptr || *scheme == "always") {
    prefix = space_prefix::missing;
  } else if (*scheme == "first") {
    prefix = space_prefix::missing_at_start;
  } else if (*scheme != "never") {
    return unknown("pre_tokenizer.prepend_scheme", "this is not one of always, first, never");
  }
  const json* adds = member(part, "add_prefix_space");
  if (adds != nullptr && *adds == false && prefix != space_prefix::never) {
    return unknown("pre_tokenizer.add_prefix_space", "prepend_scheme says otherwise");
  }
  // After the normalizer Prepend no text lacks its space.
  if (spec.prefix == space_prefix::never) spec.prefix = prefix;
  return {};
}

// A pre-tokenizer is recognised by its parts; nothing in the file is ever run.
status read_pre_tokenizer(const json& root, vocabulary_spec& spec) {
  bool digits = false, byte_level = false;
  spec.pre = pre_tokenizer::none;
  for (const json* part : parts_of(root, "pre_tokenizer", "pretokenizers")) {
    if (is_type(part, "Digits") && is_set(*part, "individual_digits") && !byte_level) {
      digits = true;
    } else if (is_type(part, "Split")) {
      FORETOKEN_TRY(read_split(*part, spec));
    } else if (is_type(part, "ByteLevel")) {
      byte_level = true;
      if (is_set(*part, "add_prefix_space")) {
        return unknown("pre_tokenizer.add_prefix_space", "a space in front is not supported here");
      }
      const json* expression = member(*part, "use_regex");
      if (expression != nullptr && *expression == false) continue;
      if (spec.pre != pre_tokenizer::none) {
        return unknown("pre_tokenizer", "two expressions one after the other are not supported");
      }
      spec.pre = digits ? pre_tokenizer::smollm : pre_tokenizer::gpt2;
    } else if (is_type(part, "Metaspace") && spec.kind == algorithm::sentencepiece_bpe) {
      FORETOKEN_TRY(read_metaspace(*part, spec));
    } else {
      return unknown("pre_tokenizer", "this kind of pre-tokenizer is not supported");
    }
  }
  const bool needs_bytes = spec.kind == algorithm::byte_level_bpe;
  if (needs_bytes != byte_level || (needs_bytes && spec.pre == pre_tokenizer::none)) {
    return unknown("pre_tokenizer",
                   "this combination is not that of gpt2, llama3, qwen2 or smollm");
  }
  return {};
}

bool is_byte_level(const json& root) {
  for (const json* part : parts_of(root, "pre_tokenizer", "pretokenizers")) {
    if (is_type(part, "ByteLevel")) return true;
  }
  return false;
}

status read_normalizer(const json& root, vocabulary_spec& spec) {
  const bool sentencepiece = spec.kind == algorithm::sentencepiece_bpe;
  for (const json* part : parts_of(root, "normalizer", "normalizers")) {
    if (is_type(part, "NFC") && !sentencepiece) {
      spec.normalise_nfc = true;
    } else if (is_type(part, "Prepend") && sentencepiece && holds(*part, "prepend", underline)) {
      spec.prefix = space_prefix::always;
    } else if (is_type(part, "Replace") && sentencepiece && member(*part, "pattern") != nullptr &&
               holds(*member(*part, "pattern"), "String", " ") &&
               holds(*part, "content", underline)) {
      continue;  // every space becomes U+2581, which is what SentencePiece pieces mean
    } else {
      return unknown("normalizer", "this kind of normalizer is not supported");
    }
  }
  return {};
}

result<token> template_token(const json& processor, const json& item) {
  const json* special = member(item, "SpecialToken");
  const json* name = special == nullptr ? nullptr : member(*special, "id");
  const json* table = member(processor, "special_tokens");
  const json* entry = table != nullptr && name != nullptr && name->is_string()
                          ? member(*table, name->get_ref<const std::string&>())
                          : nullptr;
  const json* ids = entry == nullptr ? nullptr : member(*entry, "ids");
  if (ids == nullptr || !ids->is_array() || ids->size() != 1) {
    return bad("post_processor.special_tokens", "a special token of the template has no single id");
  }
  return read_token_id(&(*ids)[0], "post_processor.special_tokens");
}

status read_post_processor(const json& root, vocabulary_spec& spec) {
  for (const json* part : parts_of(root, "post_processor", "processors")) {
    if (is_type(part, "ByteLevel")) continue;  // concerns offsets only
    if (!is_type(part, "TemplateProcessing")) {
      return unknown("post_processor", "this kind of post-processor is not supported");
    }
    const json* single = member(*part, "single");
    if (single == nullptr || !single->is_array())
      return bad("post_processor.single", "this must be an array");
    bool seen_text = false;
    for (const json& item : *single) {
      if (member(item, "Sequence") != nullptr) {
        if (seen_text) return unknown("post_processor.single", "the text may occur once only");
        seen_text = true;
        continue;
      }
      const auto id = template_token(*part, item);
      if (!id) return id.error();
      bool& adds = seen_text ? spec.add_eos : spec.add_bos;
      if (adds)
        return unknown("post_processor.single", "one token on each side of the text is supported");
      adds = true;
      (seen_text ? spec.eos : spec.bos) = *id;
    }
  }
  return {};
}

// A token by its text, as tokenizer_config.json names it: "<s>" or {"content": "<s>"}.
token named_token(const vocabulary_spec& spec, const json& config, const char* key) {
  const json* name = member(config, key);
  if (name != nullptr && name->is_object()) name = member(*name, "content");
  if (name == nullptr || !name->is_string()) return -1;
  const auto found =
      std::find(spec.pieces.begin(), spec.pieces.end(), name->get_ref<const std::string&>());
  return found == spec.pieces.end() ? -1 : static_cast<token>(found - spec.pieces.begin());
}

// An id or a list of ids; the first becomes `first` when that is still open.
status read_ids(
    const json& config, const char* file, const char* key, token& first, std::vector<token>* all) {
  const json* value = member(config, key);
  if (value == nullptr) return {};
  const json list = value->is_array() ? *value : json::array({*value});
  for (const json& item : list) {
    if (!item.is_number_unsigned() ||
        item.get<std::uint64_t>() >= static_cast<std::uint64_t>(vocabulary_max)) {
      return corrupt(std::string(file) + " " + key, "an id is outside the vocabulary");
    }
    if (first < 0) first = item.get<token>();
    if (all != nullptr) all->push_back(item.get<token>());
  }
  return {};
}

status read_special(const hugging_face_files& files, vocabulary_spec& spec) {
  const json& names = files.tokenizer_config;
  if (spec.bos < 0) spec.bos = named_token(spec, names, "bos_token");
  if (spec.eos < 0) spec.eos = named_token(spec, names, "eos_token");
  spec.pad = named_token(spec, names, "pad_token");
  const json* inner = member(files.config, "text_config");
  const json& config = inner != nullptr ? *inner : files.config;
  for (const auto& [source, file] :
       {std::pair{&config, "config.json"},
        std::pair{&files.generation_config, "generation_config.json"}}) {
    FORETOKEN_TRY(read_ids(*source, file, "bos_token_id", spec.bos, nullptr));
    FORETOKEN_TRY(read_ids(*source, file, "eos_token_id", spec.eos, &spec.end_of_generation));
  }
  // Llama's and Gemma's own tokenizer classes add BOS without saying so in tokenizer.json.
  const json* type = member(names, "tokenizer_class");
  const bool own_rule = type != nullptr && type->is_string() &&
                        (type->get_ref<const std::string&>().starts_with("Llama") ||
                         type->get_ref<const std::string&>().starts_with("Gemma"));
  if (own_rule && member(files.tokenizer, "post_processor") == nullptr) {
    const json* adds = member(names, "add_bos_token");
    spec.add_bos = (adds == nullptr || *adds == true) && spec.bos >= 0;
  }
  return {};
}

status check_model(const json* model) {
  if (model == nullptr) return bad("model", "this key is missing");
  if (!is_type(model, "BPE")) return unknown("model.type", "only BPE tokenizers are supported");
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const json* text = member(*model, key);
    if (text != nullptr && *text != "")
      return unknown(std::string("model.") + key, "this is not supported");
  }
  return {};
}

}  // namespace

result<vocabulary_spec> hugging_face_vocabulary(const hugging_face_files& files,
                                                const hyperparameters& shape) {
  const json& root = files.tokenizer;
  if (!root.is_object()) return bad("", "this must be a JSON object");
  const json* model = member(root, "model");
  FORETOKEN_TRY(check_model(model));
  vocabulary_spec spec;
  spec.kind = is_byte_level(root) ? algorithm::byte_level_bpe : algorithm::sentencepiece_bpe;
  spec.byte_fallback = is_set(*model, "byte_fallback");
  spec.ignore_merges = is_set(*model, "ignore_merges");
  FORETOKEN_TRY(read_pieces(root, *model, shape.vocabulary, spec));
  FORETOKEN_TRY(read_merges(*model, spec));
  FORETOKEN_TRY(read_normalizer(root, spec));
  FORETOKEN_TRY(read_pre_tokenizer(root, spec));
  FORETOKEN_TRY(read_post_processor(root, spec));
  FORETOKEN_TRY(read_special(files, spec));
  spec.unknown = named_token(spec, *model, "unk_token");
  if (spec.unknown >= 0) spec.kinds[static_cast<std::size_t>(spec.unknown)] = token_kind::unknown;
  complete_end_of_generation(spec);
  FORETOKEN_TRY(check_vocabulary(spec, "tokenizer.json "));
  return spec;
}

}  // namespace foretoken::model
