// SPDX-License-Identifier: Apache-2.0
#include "net/request_json.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <optional>

#include "net/json_values.hpp"

namespace foretoken::net {
namespace {

struct reader {
  const options& bounds;
  dialect how;
  parsed_request out;
  actors::generate_request shape;  // everything but the prompt
  std::vector<decltype(shape.prompt)> prompts;
  std::optional<std::int64_t> max_tokens, best_of, top_logprobs;
  bool prompt_given = false, stream_options_given = false;
  int spellings_of_max_tokens = 0;
};
using parameter = status (*)(reader&, json_value&, const std::string&);

constexpr std::int64_t int_max = std::numeric_limits<std::int32_t>::max();
constexpr std::size_t role_bytes_max = 32;  // an error repeats it

status read_one_prompt(reader& in, json_value& value, const std::string& field) {
  if (auto* text = std::get_if<std::string>(&value.data)) {
    in.prompts.emplace_back(actors::text_prompt(std::move(*text)));
    return {};
  }
  if (const auto* list = value.array()) {
    auto ids = read_tokens(*list, field);
    if (!ids) return std::move(ids).error();
    if (ids->empty()) return invalid(field, "the prompt has no tokens");
    in.prompts.emplace_back(std::move(*ids));
    return {};
  }
  return invalid(field, "prompt must be a string, a list of token ids, or a list of these");
}

status read_prompt(reader& in, json_value& value, const std::string& field) {
  in.prompt_given = true;
  auto* list = std::get_if<json_array>(&value.data);
  const bool several = list != nullptr && !list->empty() && list->front().integer() == nullptr;
  if (!several) return read_one_prompt(in, value, field);
  const auto most = is_op(in.how) ? 1 : in.bounds.prompts_max;
  if (list->size() > static_cast<std::size_t>(most)) {
    return invalid(field, "at most " + std::to_string(most) + " prompts in one request");
  }
  for (auto& item : *list) FORETOKEN_TRY(read_one_prompt(in, item, field));
  return {};
}

status read_content(json_value& value, std::string& out) {
  if (auto* text = std::get_if<std::string>(&value.data)) {
    out = std::move(*text);
    return {};
  }
  const auto* parts = value.array();
  if (parts == nullptr)
    return invalid("messages", "message content must be a string or text parts");
  for (const auto& part : *parts) {
    const auto* kind = part.find("type");
    const auto* text = part.find("text");
    if (kind == nullptr || kind->string() == nullptr || *kind->string() != "text") {
      return unsupported("messages", "only content parts of type \"text\" are supported");
    }
    if (text == nullptr || text->string() == nullptr || part.object()->size() != 2) {
      return invalid("messages", "a text part has exactly \"type\" and \"text\"");
    }
    out += *text->string();
  }
  return {};
}

status read_message(json_value& item, tokenizer::chat_message& out) {
  auto* members = std::get_if<json_object>(&item.data);
  if (members == nullptr) return invalid("messages", "each message must be an object");
  bool content_given = false;
  for (auto& [key, value] : *members) {
    if (key == "role") {
      FORETOKEN_TRY(read_string(value, "messages", out.role));
    } else if (key == "content") {
      content_given = !value.is_null();
      if (content_given) FORETOKEN_TRY(read_content(value, out.content));
    } else if (!value.is_null()) {
      // Clients send an earlier answer back as they got it: with these, empty.
      const bool empty_list = value.array() != nullptr && value.array()->empty();
      if (!(key == "tool_calls" && empty_list)) {
        return unsupported("messages", "message key \"" + clipped(key) + "\" is not supported");
      }
    }
  }
  if (out.role.empty() || out.role.size() > role_bytes_max) {
    return invalid("messages", "each message needs a role: system, user or assistant");
  }
  // An assistant's turn may have been empty: clients send it back with null, or without content.
  if (!content_given && out.role != "assistant") {
    return invalid("messages", "each message needs content");
  }
  return {};
}

status read_messages(reader& in, json_value& value, const std::string& field) {
  in.prompt_given = true;
  auto* list = std::get_if<json_array>(&value.data);
  if (list == nullptr || list->empty())
    return invalid(field, "messages must be a list that is not empty");
  actors::chat_prompt talk(list->size());
  for (std::size_t i = 0; i < list->size(); ++i) FORETOKEN_TRY(read_message((*list)[i], talk[i]));
  in.prompts.emplace_back(std::move(talk));
  return {};
}

// --- lengths, counts and lists ---

status read_max_tokens(reader& in, json_value& value, const std::string& field) {
  if (++in.spellings_of_max_tokens > 1) {
    return invalid(field, "give max_tokens or max_completion_tokens, not both");
  }
  return read_integer(value, field, 0, int_max, in.max_tokens.emplace());
}

status read_n(reader& in, json_value& value, const std::string& field) {
  std::int64_t n = 1;
  FORETOKEN_TRY(read_integer(value, field, 1, in.bounds.choices_max, n));
  in.shape.n = static_cast<int>(n);
  return {};
}

status read_stop(reader& in, json_value& value, const std::string& field) {
  const auto add = [&](json_value& item) -> status {
    auto* text = std::get_if<std::string>(&item.data);
    if (text == nullptr || text->empty()) {
      return invalid(field, "stop must be a string or a list of strings, none empty");
    }
    in.shape.stop.push_back(std::move(*text));
    return {};
  };
  auto* list = std::get_if<json_array>(&value.data);
  if (list == nullptr) return add(value);
  if (list->size() > 64) return invalid(field, "too many stop strings");
  for (auto& item : *list) FORETOKEN_TRY(add(item));
  return {};
}

status read_logit_bias(reader& in, json_value& value, const std::string& field) {
  const auto* members = value.object();
  if (members == nullptr) return invalid(field, "logit_bias must map token ids to numbers");
  for (const auto& [key, bias] : *members) {
    token id = -1;
    const auto* end = key.data() + key.size();
    const auto read = std::from_chars(key.data(), end, id);
    const bool plain = key.size() == 1 || (!key.empty() && key.front() != '0');
    if (read.ec != std::errc{} || read.ptr != end || id < 0 || !plain) {
      return invalid(field, "logit_bias keys must be token ids");
    }
    float amount = 0;
    FORETOKEN_TRY(read_number(bias, field, -100, 100, false, amount));
    in.shape.sampling.logit_bias.emplace_back(id, amount);
  }
  return {};
}

status read_seed(reader& in, json_value& value, const std::string& field) {
  in.shape.seed_given = true;
  if (const auto* small = value.integer()) {
    in.shape.sampling.seed = static_cast<std::uint64_t>(*small);
    return {};
  }
  if (const auto* large = std::get_if<std::uint64_t>(&value.data)) {
    in.shape.sampling.seed = *large;
    return {};
  }
  return invalid(field, "seed must be an integer of 64 bits");
}

status read_logprobs(reader& in, json_value& value, const std::string& field) {
  if (is_chat(in.how)) return read_bool(value, field, in.out.logprobs);
  if (value.boolean() != nullptr && !*value.boolean()) return {};
  std::int64_t count = 0;
  FORETOKEN_TRY(read_integer(value, field, 0, 20, count));
  in.out.logprobs = true;
  in.shape.sampling.logprobs = static_cast<int>(count);
  return {};
}

status read_stream_options(reader& in, json_value& value, const std::string& field) {
  const auto* members = value.object();
  if (members == nullptr) return invalid(field, "stream_options must be an object");
  in.stream_options_given = true;
  for (const auto& [key, item] : *members) {
    const auto name = field + "." + clipped(key);
    if (key == "include_usage" && !item.is_null()) {
      FORETOKEN_TRY(read_bool(item, name, in.out.include_usage));
    } else if (!item.is_null() &&
               !(key == "include_obfuscation" && item.boolean() && !*item.boolean())) {
      return invalid(name, "unknown parameter " + name);
    }
  }
  return {};
}

status read_response_format(reader&, json_value& value, const std::string& field) {
  const auto* kind = value.find("type");
  if (kind != nullptr && kind->string() != nullptr && *kind->string() == "text" &&
      value.object()->size() == 1) {
    return {};
  }
  return refuse(field, "{\"type\":\"text\"}");
}

// --- parameters we lack: their neutral values pass ---

status any_string(reader&, json_value& value, const std::string& field) {
  std::string ignored;
  return read_string(value, field, ignored);
}
status any_bool(reader&, json_value& value, const std::string& field) {
  bool ignored = false;
  return read_bool(value, field, ignored);
}
status only_null(reader&, json_value&, const std::string& field) {
  return refuse(field, "null");
}
status only_false(reader&, json_value& value, const std::string& field) {
  return value.boolean() != nullptr && !*value.boolean() ? status{} : refuse(field, "false");
}
status only_empty(reader&, json_value& value, const std::string& field) {
  const bool list = value.array() != nullptr && value.array()->empty();
  const bool object = value.object() != nullptr && value.object()->empty();
  return list || object ? status{} : refuse(field, "an empty value");
}
status only_empty_string(reader&, json_value& value, const std::string& field) {
  return value.string() != nullptr && value.string()->empty() ? status{} : refuse(field, "null");
}
status only_none(reader&, json_value& value, const std::string& field) {
  const auto* text = value.string();
  return text != nullptr && (*text == "none" || *text == "auto") ? status{}
                                                                 : refuse(field, "\"none\"");
}
status service_tier(reader&, json_value& value, const std::string& field) {
  const auto* text = value.string();
  return text != nullptr && (*text == "auto" || *text == "default") ? status{}
                                                                    : refuse(field, "\"auto\"");
}
status only_text_modality(reader&, json_value& value, const std::string& field) {
  const auto* list = value.array();
  const bool text = list != nullptr && list->size() == 1 && list->front().string() != nullptr &&
                    *list->front().string() == "text";
  return text ? status{} : refuse(field, "[\"text\"]");
}

// --- the table ---

constexpr int in_completions = 1, in_chat = 2, in_generate_op = 4, in_chat_op = 8;
constexpr int in_text = in_completions | in_generate_op, in_talk = in_chat | in_chat_op;
constexpr int in_http = in_completions | in_chat, in_ops = in_generate_op | in_chat_op;
constexpr int everywhere = in_text | in_talk;

struct row {
  const char* name;
  int where;
  parameter read;
};

template <auto Member, int Low, int High, bool Above = false>
status real(reader& in, json_value& value, const std::string& field) {
  return read_number(value, field, Low, High, Above, in.shape.sampling.*Member);
}
template <auto Member>
status flag(reader& in, json_value& value, const std::string& field) {
  return read_bool(value, field, in.shape.*Member);
}

using sampling = model::sampling_parameters;
using request = actors::generate_request;

const row rows[] = {
    {"model", everywhere, any_string},
    {"op", in_ops, any_string},
    {"id", in_ops, [](reader&, json_value&, const std::string&) -> status { return {}; }},
    {"prompt", in_text, read_prompt},
    {"messages", in_talk, read_messages},
    {"max_tokens", everywhere, read_max_tokens},
    {"max_completion_tokens", in_talk, read_max_tokens},
    {"temperature", everywhere, real<&sampling::temperature, 0, 2>},
    {"top_p", everywhere, real<&sampling::top_p, 0, 1, true>},
    {"min_p", everywhere, real<&sampling::min_p, 0, 1>},
    {"repetition_penalty", everywhere,
     [](reader& in, json_value& value, const std::string& field) -> status {
       return read_finite(value, field, in.shape.sampling.repetition_penalty);  // so has this
     }},
    {"presence_penalty", everywhere, real<&sampling::presence_penalty, -2, 2>},
    {"frequency_penalty", everywhere, real<&sampling::frequency_penalty, -2, 2>},
    {"top_k", everywhere,
     [](reader& in, json_value& value, const std::string& field) -> status {
       std::int64_t k = 0;
       FORETOKEN_TRY(read_integer(value, field, 0, int_max, k));
       in.shape.sampling.top_k = static_cast<int>(k);
       return {};
     }},
    {"seed", everywhere, read_seed},
    {"stop", everywhere, read_stop},
    {"n", everywhere, read_n},
    {"logit_bias", everywhere, read_logit_bias},
    {"logprobs", everywhere, read_logprobs},
    {"top_logprobs", in_talk,
     [](reader& in, json_value& value, const std::string& field) -> status {
       return read_integer(value, field, 0, 20, in.top_logprobs.emplace());
     }},
    {"echo", in_text, flag<&request::echo>},
    {"ignore_eos", everywhere, flag<&request::ignore_eos>},
    {"parse_special", in_text, flag<&request::parse_special>},
    {"cache_salt", everywhere,
     [](reader& in, json_value& value, const std::string& field) -> status {
       return read_string(value, field, in.shape.cache_salt);  // the engine has its rule
     }},
    {"stream", everywhere,
     [](reader& in, json_value& value, const std::string& field) -> status {
       FORETOKEN_TRY(read_bool(value, field, in.out.stream));
       if (is_op(in.how) && !in.out.stream) return refuse(field, "true");
       return {};
     }},
    {"stream_options", everywhere, read_stream_options},
    {"best_of", in_text,
     [](reader& in, json_value& value, const std::string& field) -> status {
       return read_integer(value, field, 1, int_max, in.best_of.emplace());
     }},
    {"suffix", in_text, only_empty_string},
    {"user", everywhere, any_string},
    {"safety_identifier", everywhere, any_string},
    {"prompt_cache_key", everywhere, any_string},
    {"response_format", everywhere, read_response_format},
    {"tools", in_talk, only_empty},
    {"tool_choice", in_talk, only_none},
    {"functions", in_talk, only_empty},
    {"function_call", in_talk, only_none},
    {"parallel_tool_calls", in_talk, any_bool},
    {"store", in_talk, only_false},
    {"metadata", in_talk, only_empty},
    {"service_tier", in_talk, service_tier},
    {"modalities", in_talk, only_text_modality},
    {"audio", in_talk, only_null},
    {"prediction", in_talk, only_null},
    {"reasoning_effort", in_talk, only_null},
    {"verbosity", in_talk, only_null},
    {"web_search_options", in_talk, only_null},
};

int place_of(dialect how) {
  return 1 << static_cast<int>(how);
}

const row* find_row(std::string_view name, dialect how) {
  for (const auto& candidate : rows) {
    if (candidate.name == name && (candidate.where & place_of(how)) != 0) return &candidate;
  }
  return nullptr;
}

// Rules between parameters.
status check_together(reader& in) {
  const char* prompt = is_chat(in.how) ? "messages" : "prompt";
  if (!in.prompt_given) return invalid(prompt, std::string(prompt) + " is required");
  if (in.best_of && *in.best_of != in.shape.n) {
    return unsupported("best_of", "best_of is not supported; it may only equal n");
  }
  if (in.stream_options_given && !in.out.stream && !is_op(in.how)) {
    return invalid("stream_options", "stream_options needs stream = true");
  }
  if (is_chat(in.how)) {
    if (in.top_logprobs && !in.out.logprobs) {
      return invalid("top_logprobs", "top_logprobs needs logprobs = true");
    }
    if (in.out.logprobs) in.shape.sampling.logprobs = static_cast<int>(in.top_logprobs.value_or(0));
  }
  in.shape.max_tokens = in.max_tokens.value_or(is_chat(in.how) ? int_max : 16);
  if (in.shape.max_tokens == 0 && !in.shape.echo) {
    return invalid("max_tokens", "max_tokens must be at least 1 (0 only with echo)");
  }
  return {};
}

}  // namespace

result<parsed_request> parse_generate(json_value&& body, dialect how, const options& bounds) {
  auto* members = std::get_if<json_object>(&body.data);
  if (members == nullptr) return invalid("", "the request must be a JSON object");
  reader in{bounds, how, {}, {}, {}, {}, {}, {}};
  for (auto& [name, value] : *members) {
    const auto* known = find_row(name, how);
    if (known == nullptr) {
      return invalid(clipped(name), "unknown parameter " + clipped(name));
    }
    if (!value.is_null()) FORETOKEN_TRY(known->read(in, value, name));
  }
  FORETOKEN_TRY(check_together(in));
  for (auto& prompt : in.prompts) {
    auto& made = in.out.requests.emplace_back(in.shape);
    made.prompt = std::move(prompt);
  }
  return std::move(in.out);
}

result<parsed_tokenize> parse_tokenize(const json_value& body, bool op) {
  const auto* members = body.object();
  if (members == nullptr) return invalid("", "the request must be a JSON object");
  parsed_tokenize out;
  bool text_given = false;
  for (const auto& [name, value] : *members) {
    if (name == "text") {
      FORETOKEN_TRY(read_string(value, name, out.text));
      text_given = true;
    } else if (name == "add_special_tokens") {
      if (!value.is_null()) FORETOKEN_TRY(read_bool(value, name, out.add_special));
    } else if (name == "parse_special") {
      if (!value.is_null()) FORETOKEN_TRY(read_bool(value, name, out.parse_special));
    } else if (name != "model" && !(op && (name == "op" || name == "id"))) {
      return invalid(clipped(name), "unknown parameter " + clipped(name));
    }
  }
  if (!text_given) return invalid("text", "text is required");
  return out;
}

result<std::vector<token>> parse_detokenize(const json_value& body) {
  const auto* members = body.object();
  if (members == nullptr) return invalid("", "the request must be a JSON object");
  const json_array* list = nullptr;
  for (const auto& [name, value] : *members) {
    if (name == "tokens") {
      list = value.array();
      if (list == nullptr) return invalid("tokens", "tokens must be a list of token ids");
    } else if (name != "model") {
      return invalid(clipped(name), "unknown parameter " + clipped(name));
    }
  }
  if (list == nullptr) return invalid("tokens", "tokens is required");
  return read_tokens(*list, "tokens");
}

}  // namespace foretoken::net
