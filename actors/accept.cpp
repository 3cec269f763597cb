// SPDX-License-Identifier: Apache-2.0
#include "actors/accept.hpp"

#include <algorithm>
#include <cmath>

#include <spdlog/fmt/fmt.h>

namespace foretoken::actors {
namespace {

// What a template writes around one message, about: <|start_header_id|>, <|eot_id|> and the like.
constexpr std::size_t message_overhead_bytes = 32;

status check_range(const char* field, double value, double low, double high) {
  if (std::isfinite(value) && value >= low && value <= high) return {};
  return invalid(field, fmt::format("must be a number from {} to {}", low, high));
}

status check_sampling(const generate_request& request, int vocabulary, const options& limits) {
  const auto& sampling = request.sampling;
  FORETOKEN_TRY(check_range("temperature", sampling.temperature, 0, 100));
  FORETOKEN_TRY(check_range("top_p", sampling.top_p, 0, 1));
  if (sampling.top_p == 0) return invalid("top_p", "must be greater than 0");
  FORETOKEN_TRY(check_range("min_p", sampling.min_p, 0, 1));
  FORETOKEN_TRY(check_range("repetition_penalty", sampling.repetition_penalty, 0.01, 10));
  FORETOKEN_TRY(check_range("presence_penalty", sampling.presence_penalty, -2, 2));
  FORETOKEN_TRY(check_range("frequency_penalty", sampling.frequency_penalty, -2, 2));
  if (sampling.top_k < 0) return invalid("top_k", "must be 0 (off) or more");
  if (sampling.logprobs > limits.logprobs_max) {
    return invalid("logprobs", fmt::format("must be at most {}", limits.logprobs_max));
  }
  if (sampling.logit_bias.size() > static_cast<std::size_t>(limits.logit_bias_max)) {
    return invalid("logit_bias",
                   fmt::format("must have at most {} entries", limits.logit_bias_max));
  }
  for (const auto& [id, bias] : sampling.logit_bias) {
    if (id < 0 || id >= vocabulary) {
      return invalid("logit_bias",
                     fmt::format("token {} is not in the vocabulary of {}", id, vocabulary));
    }
    FORETOKEN_TRY(check_range("logit_bias", bias, -100, 100));
  }
  return {};
}

status check_stops(const generate_request& request, const options& limits) {
  if (request.stop.size() > static_cast<std::size_t>(limits.stops_max)) {
    return invalid("stop", fmt::format("must have at most {} strings", limits.stops_max));
  }
  for (const auto& stop : request.stop) {
    if (stop.empty()) return invalid("stop", "must not hold an empty string");
    if (stop.size() > static_cast<std::size_t>(limits.stop_bytes_max)) {
      return invalid("stop",
                     fmt::format("a string is longer than {} bytes", limits.stop_bytes_max));
    }
  }
  return {};
}

status check_salt(const std::string& salt) {
  const bool printable =
      std::all_of(salt.begin(), salt.end(), [](char c) { return c > 0x20 && c < 0x7F; });
  if (salt.size() <= 64 && printable) return {};
  return invalid("cache_salt", "must be at most 64 printable ASCII characters without spaces");
}

status check_prompt(const generate_request& request,
                    const loaded_model& model,
                    const options& limits) {
  const auto* talk = std::get_if<chat_prompt>(&request.prompt);
  const char* field = talk != nullptr ? "messages" : "prompt";
  if (talk != nullptr && talk->size() > static_cast<std::size_t>(limits.messages_max)) {
    return invalid(field, fmt::format("must have at most {} messages", limits.messages_max));
  }
  if (prompt_bytes(request) > limits.prompt_bytes_max) {
    return invalid(field, fmt::format("is longer than {} bytes", limits.prompt_bytes_max));
  }
  if (const auto* ids = std::get_if<token_prompt>(&request.prompt)) {
    FORETOKEN_TRY(check_tokens("prompt", *ids, model.shape.vocabulary));
  }
  if (talk != nullptr && model.chat == tokenizer::chat_family::none) {
    if (!model.chat_problem.message.empty()) return model.chat_problem;
    return unsupported(
        "messages", "this model has no chat template; set model.chat_template to a family's name");
  }
  return {};
}

}  // namespace

status check_tokens(const char* field, const std::vector<token>& ids, int vocabulary) {
  const auto bad =
      std::find_if(ids.begin(), ids.end(), [&](token id) { return id < 0 || id >= vocabulary; });
  if (bad == ids.end()) return {};
  return invalid(field, fmt::format("token {} is not in the vocabulary of {}", *bad, vocabulary));
}

status validate(const generate_request& request, const loaded_model& model, const options& limits) {
  if (request.max_tokens < 0 || (request.max_tokens == 0 && !request.echo) ||
      request.max_tokens > 2147483647) {
    return invalid("max_tokens", "must be from 1 to 2147483647 (0 only with echo)");
  }
  if (request.n < 1 || request.n > limits.choices_max) {
    return invalid("n", fmt::format("must be from 1 to {}", limits.choices_max));
  }
  FORETOKEN_TRY(check_sampling(request, model.shape.vocabulary, limits));
  FORETOKEN_TRY(check_stops(request, limits));
  FORETOKEN_TRY(check_salt(request.cache_salt));
  return check_prompt(request, model, limits);
}

std::size_t prompt_bytes(const generate_request& request) noexcept {
  if (const auto* text = std::get_if<text_prompt>(&request.prompt)) return text->size();
  if (const auto* ids = std::get_if<token_prompt>(&request.prompt)) return ids->size();
  std::size_t sum = 0;
  if (const auto* messages = std::get_if<chat_prompt>(&request.prompt)) {
    for (const auto& message : *messages) {
      sum += message_overhead_bytes + message.role.size() + message.content.size();
    }
  }
  return sum;
}

status encode(accepted_request& accepted, const loaded_model& model) {
  const auto& request = *accepted.request;
  const bool chat = std::holds_alternative<chat_prompt>(request.prompt);
  const char* field = chat ? "messages" : "prompt";
  std::vector<token> ids;
  if (const auto* text = std::get_if<text_prompt>(&request.prompt)) {
    ids = model.words->encode(*text, {.add_special = true, .parse_special = request.parse_special});
  } else if (const auto* given = std::get_if<token_prompt>(&request.prompt)) {
    ids = *given;
  } else {
    auto rendered =
        tokenizer::render_chat(model.chat, *model.words, std::get<chat_prompt>(request.prompt));
    if (!rendered) return rendered.error();
    ids = std::move(rendered).value();
  }
  if (ids.empty()) return invalid(field, "is empty");
  const auto length = static_cast<std::int64_t>(ids.size());
  const std::int64_t left = model.shape.context - length;
  if (left < (request.max_tokens == 0 ? 0 : 1)) {
    return invalid(field, fmt::format("has {} tokens; the model's context holds {} with the answer",
                                      length, model.shape.context));
  }
  accepted.max_tokens = static_cast<int>(std::min(request.max_tokens, left));
  accepted.prompt = std::make_shared<const std::vector<token>>(std::move(ids));
  return {};
}

}  // namespace foretoken::actors
