// SPDX-License-Identifier: Apache-2.0
#include "net/http_answers.hpp"

#include <chrono>
#include <iterator>
#include <utility>

#include "net/answer_json.hpp"
#include "net/request_json.hpp"

namespace foretoken::net {
namespace {

struct choice_state {
  std::string text;
  std::vector<actors::token_logprob> logprobs;
  actors::finish_reason reason = actors::finish_reason::stop;
  bool begun = false;  // streams: the first chunk has left
  bool ended = false;  // streams: the chunk with finish_reason has left
};

class generate_answer final : public http_answer {
 public:
  generate_answer(http_session& out, bool chat, parsed_request& asked)
      : out_(out),
        chat_(chat),
        stream_(asked.stream),
        include_usage_(asked.include_usage),
        logprobs_(asked.logprobs),
        per_prompt_(asked.requests.front().n),
        choices_(asked.requests.size() * static_cast<std::size_t>(per_prompt_)) {
    name_ = (chat ? "chatcmpl-" : "cmpl-") + std::to_string(++out.core().next_name);
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    created_ = std::chrono::duration_cast<std::chrono::seconds>(now).count();
  }
  ~generate_answer() override { give_up(); }

  // Engine requests for all prompts; on an error none is left running.
  status submit(std::vector<actors::generate_request> requests) {
    for (auto& request : requests) {
      auto id = out_.core().submit(std::move(request), *this);
      if (!id) {
        give_up();
        return std::move(id).error();
      }
      parts_.emplace_back(*id, parts_.size());
      ++open_;
    }
    return {};
  }

  void on_event(actors::event& what) override {
    if (ended_) return;
    const auto base = base_of(what.request);
    if (auto* piece = std::get_if<actors::token_event>(&what.what)) {
      on_token(base + static_cast<std::size_t>(piece->choice), *piece);
    } else if (const auto* choice = std::get_if<actors::choice_event>(&what.what)) {
      on_choice(base + static_cast<std::size_t>(choice->choice), choice->reason);
    } else if (const auto* done = std::get_if<actors::done_event>(&what.what)) {
      on_done(base, *done);
    } else if (const auto* failed = std::get_if<actors::error_event>(&what.what)) {
      on_error(failed->failure);
    }
  }

 private:
  std::size_t base_of(request_id id) const {
    for (const auto& [known, index] : parts_) {
      if (known == id) return index * static_cast<std::size_t>(per_prompt_);
    }
    return 0;
  }

  void give_up() {
    for (const auto& [id, index] : parts_) out_.core().abandon(id);  // ended ones are ignored
    parts_.clear();
  }

  void on_token(std::size_t index, actors::token_event& piece) {
    auto& choice = choices_[index];
    if (stream_) {
      if (!piece.text.empty() || !piece.logprobs.empty()) send_piece(index, piece);
      return;
    }
    choice.text += piece.text;
    choice.logprobs.insert(choice.logprobs.end(), std::make_move_iterator(piece.logprobs.begin()),
                           std::make_move_iterator(piece.logprobs.end()));
  }

  void on_choice(std::size_t index, actors::finish_reason reason) {
    choices_[index].reason = reason;
    if (stream_) send_end(index);
  }

  void on_done(std::size_t base, const actors::done_event& done) {
    for (std::size_t i = 0; i < done.reasons.size() && base + i < choices_.size(); ++i) {
      choices_[base + i].reason = done.reasons[i];
      if (stream_) send_end(base + i);
    }
    used_.prompt_tokens += done.usage.prompt_tokens;
    used_.completion_tokens += done.usage.completion_tokens;
    used_.cached_tokens += done.usage.cached_tokens;
    if (--open_ != 0) return;
    ended_ = true;
    if (!stream_) return out_.respond(200, "application/json", whole());
    if (include_usage_) {
      auto out = opening();
      out += "[],\"usage\":";
      write_usage(out, used_);
      send_line(out += '}');
    }
    out_.stream("data: [DONE]\n\n");
    out_.end_stream();
  }

  void on_error(const error& why) {
    ended_ = true;
    give_up();
    if (!begun_) return out_.respond_error(why);
    std::string line = "{\"error\":";
    write_error(line, why);
    send_line(line += '}');
    out_.end_stream();
  }

  std::string opening() const {
    std::string out = "{\"id\":\"" + name_ + "\",\"object\":\"";
    if (chat_) {
      out += stream_ ? "chat.completion.chunk" : "chat.completion";
    } else {
      out += "text_completion";
    }
    out += "\",\"created\":";
    write_json_number(out, created_);
    out += ",\"model\":";
    write_json_string(out, out_.core().engine.model().name);
    return out += ",\"choices\":";
  }

  void send_line(const std::string& json) {
    if (!begun_) out_.begin_stream();
    begun_ = true;
    out_.stream("data: " + json + "\n\n");
  }

  // One chunk with one choice: `body` is its delta or text.
  void send_chunk(std::size_t index,
                  const std::string& body,
                  const std::vector<actors::token_logprob>* scores,
                  const char* reason) {
    auto out = opening();
    out += "[{\"index\":";
    write_json_number(out, static_cast<std::int64_t>(index));
    out += ',';
    out += body;
    out += ",\"logprobs\":";
    write_scores(out, scores);
    out += ",\"finish_reason\":";
    if (reason == nullptr) {
      out += "null";
    } else {
      write_json_string(out, reason);
    }
    out += include_usage_ ? "}],\"usage\":null}" : "}]}";
    send_line(out);
  }

  void write_scores(std::string& out, const std::vector<actors::token_logprob>* scores) const {
    if (scores == nullptr || !logprobs_) {
      out += "null";
    } else {
      (chat_ ? write_chat_logprobs : write_text_logprobs)(out, *scores);
    }
  }

  void begin_choice(std::size_t index) {
    if (!chat_ || std::exchange(choices_[index].begun, true)) return;
    send_chunk(index, "\"delta\":{\"role\":\"assistant\",\"content\":\"\"}", nullptr, nullptr);
  }

  void send_piece(std::size_t index, const actors::token_event& piece) {
    begin_choice(index);
    std::string body = chat_ ? "\"delta\":{\"content\":" : "\"text\":";
    write_json_string(body, piece.text);
    if (chat_) body += '}';
    send_chunk(index, body, piece.logprobs.empty() ? nullptr : &piece.logprobs, nullptr);
  }

  void send_end(std::size_t index) {
    auto& choice = choices_[index];
    if (std::exchange(choice.ended, true)) return;
    begin_choice(index);
    send_chunk(index, chat_ ? "\"delta\":{}" : "\"text\":\"\"", nullptr,
               reason_name(choice.reason));
  }

  std::string whole() const {
    auto out = opening() + "[";
    for (std::size_t i = 0; i < choices_.size(); ++i) {
      const auto& choice = choices_[i];
      out += i == 0 ? "{\"index\":" : ",{\"index\":";
      write_json_number(out, static_cast<std::int64_t>(i));
      out += chat_ ? ",\"message\":{\"role\":\"assistant\",\"content\":" : ",\"text\":";
      write_json_string(out, choice.text);
      if (chat_) out += ",\"refusal\":null}";
      out += ",\"logprobs\":";
      write_scores(out, &choice.logprobs);
      out += ",\"finish_reason\":";
      write_json_string(out, reason_name(choice.reason));
      out += '}';
    }
    out += "],\"usage\":";
    write_usage(out, used_);
    return out += '}';
  }

  http_session& out_;
  bool chat_, stream_, include_usage_, logprobs_;
  int per_prompt_;
  std::vector<choice_state> choices_;  // prompt * n + choice
  std::vector<std::pair<request_id, std::size_t>> parts_;
  std::string name_;
  std::int64_t created_ = 0;
  actors::usage used_;
  int open_ = 0;
  bool begun_ = false, ended_ = false;
};

class tokenize_answer final : public http_answer {
 public:
  explicit tokenize_answer(http_session& out) : out_(out) {}
  ~tokenize_answer() override { out_.core().abandon(id_); }
  status submit(parsed_tokenize asked) {
    auto id = out_.core().tokenize(std::move(asked.text), {asked.add_special, asked.parse_special},
                                   *this);
    if (!id) return std::move(id).error();
    id_ = *id;
    return {};
  }
  void on_event(actors::event& what) override {
    if (const auto* failed = std::get_if<actors::error_event>(&what.what)) {
      return out_.respond_error(failed->failure);
    }
    const auto* tokens = std::get_if<actors::tokens_event>(&what.what);
    if (tokens == nullptr) return;
    std::string body = "{\"tokens\":[";
    for (std::size_t i = 0; i < tokens->ids.size(); ++i) {
      if (i != 0) body += ',';
      write_json_number(body, tokens->ids[i]);
    }
    out_.respond(200, "application/json", body += "]}");
  }

 private:
  http_session& out_;
  request_id id_{};
};

std::unique_ptr<http_answer> refuse(http_session& out, const error& why) {
  count_refusal(out.core().metrics(), why);
  out.respond_error(why);
  return nullptr;
}

}  // namespace

std::unique_ptr<http_answer> answer_generate(http_session& out, json_value&& body, bool chat) {
  auto& core = out.core();
  auto asked =
      parse_generate(std::move(body), chat ? dialect::chat : dialect::completions, core.bounds);
  if (!asked) return refuse(out, asked.error());
  auto made = std::make_unique<generate_answer>(out, chat, *asked);
  if (auto done = made->submit(std::move(asked->requests)); !done) return refuse(out, done.error());
  (chat ? core.metrics().requests_chat : core.metrics().requests_completions).add();
  return made;
}

std::unique_ptr<http_answer> answer_tokenize(http_session& out, const json_value& body) {
  auto asked = parse_tokenize(body, false);
  if (!asked) return refuse(out, asked.error());
  auto made = std::make_unique<tokenize_answer>(out);
  if (auto done = made->submit(std::move(*asked)); !done) return refuse(out, done.error());
  out.core().metrics().requests_tokenize.add();
  return made;
}

void answer_detokenize(http_session& out, const json_value& body) {
  auto ids = parse_detokenize(body);
  if (!ids) return static_cast<void>(refuse(out, ids.error()));
  auto text = out.core().engine.detokenize(*ids);
  if (!text) return static_cast<void>(refuse(out, text.error()));
  std::string answer = "{\"text\":";
  write_json_string(answer, *text);
  out.respond(200, "application/json", answer += '}');
}

}  // namespace foretoken::net
