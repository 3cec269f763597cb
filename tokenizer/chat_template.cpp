// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/chat_template.hpp"

#include <span>

#include "tokenizer/unicode.hpp"

namespace foretoken::tokenizer {
namespace {

using message_list = std::span<const chat_message>;

constexpr const char* smollm2_system =
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face";
constexpr const char* qwen_system =
    "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.";
constexpr const char* qwen2_system = "You are a helpful assistant.";
// The dates Llama 3.1's template writes when nobody gives another one.
constexpr const char* llama3_1_dates =
    "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n";

// A conversation as runs of text; only the template's own control texts are marked as such.
class script {
 public:
  explicit script(const tokenizer& source) : source_(source) {}

  // Becomes a control token, or plain text in a vocabulary that has no such token.
  script& control(std::string_view text) {
    if (source_.control(text) < 0) return plain(text);
    runs_.push_back({std::string(text), true});
    return *this;
  }
  script& plain(std::string_view text) {
    if (text.empty()) return *this;
    if (runs_.empty() || runs_.back().control) runs_.push_back({{}, false});
    runs_.back().text.append(text);
    return *this;
  }
  script& bos() { return source_.bos() < 0 ? *this : control(source_.bytes(source_.bos(), true)); }

  std::vector<token> tokens() const {
    std::vector<token> out;
    for (const run& part : runs_) {
      if (part.control) {
        out.push_back(source_.control(part.text));
        continue;
      }
      const auto ids = source_.encode(
          part.text, {.add_special = false, .parse_special = false, .at_start = out.empty()});
      out.insert(out.end(), ids.begin(), ids.end());
    }
    return out;
  }
  std::string text() const {
    std::string out;
    for (const run& part : runs_) out.append(part.text);
    return out;
  }

 private:
  struct run {
    std::string text;
    bool control;
  };
  const tokenizer& source_;
  std::vector<run> runs_;
};

bool is(const chat_message& message, const char* role) {
  return message.role == role;
}

status check_roles(message_list messages) {
  if (messages.empty()) return invalid("messages", "there are no messages");
  for (const chat_message& message : messages) {
    if (!is(message, "system") && !is(message, "user") && !is(message, "assistant")) {
      return invalid("messages",
                     "the role \"" + message.role + "\" is not one of system, user, assistant");
    }
  }
  return {};
}

// For families with strict turns: an optional system message, then user and assistant in turn,
// the user last.
status check_turns(message_list messages) {
  if (is(messages.front(), "system")) messages = messages.subspan(1);
  for (std::size_t i = 0; i < messages.size(); ++i) {
    if (!is(messages[i], i % 2 == 0 ? "user" : "assistant")) {
      return invalid("messages",
                     "after an optional system message, user and assistant must take turns");
    }
  }
  if (messages.size() % 2 == 0) return invalid("messages", "the last message must be the user's");
  return {};
}

// Takes the system message off the front; empty when there is none.
std::string take_system(message_list& messages) {
  if (!is(messages.front(), "system")) return {};
  std::string content = messages.front().content;
  messages = messages.subspan(1);
  return content;
}

void chatml_turn(script& out, std::string_view role, std::string_view content) {
  out.control("<|im_start|>").plain(role).plain("\n").plain(content);
  out.control("<|im_end|>").plain("\n");
}

void render_chatml(script& out, message_list messages, const char* default_system) {
  if (default_system != nullptr && !is(messages.front(), "system")) {
    chatml_turn(out, "system", default_system);
  }
  for (const chat_message& message : messages) chatml_turn(out, message.role, message.content);
  out.control("<|im_start|>").plain("assistant\n");
}

std::string_view strip_newlines(std::string_view text, bool at_end) {
  while (!text.empty() && text.front() == '\n') text.remove_prefix(1);
  while (at_end && !text.empty() && text.back() == '\n') text.remove_suffix(1);
  return text;
}

// Qwen 3 forgets the reasoning of turns before the last question and shows that of later ones.
void qwen3_answer(script& out, const chat_message& message, bool after_question, bool last) {
  constexpr std::string_view opening = "<think>";
  constexpr std::string_view closing = "</think>";
  std::string_view answer = message.content;
  std::string_view reasoning;
  if (const std::size_t end = answer.rfind(closing); end != std::string_view::npos) {
    reasoning = answer.substr(0, answer.find(closing));
    if (const std::size_t begin = reasoning.rfind(opening); begin != std::string_view::npos) {
      reasoning.remove_prefix(begin + opening.size());
    }
    reasoning = strip_newlines(reasoning, true);
    answer = strip_newlines(answer.substr(end + closing.size()), false);
  }
  out.control("<|im_start|>").plain("assistant\n");
  if (after_question && (last || !reasoning.empty())) {
    out.control(opening).plain("\n").plain(reasoning).plain("\n").control(closing).plain("\n\n");
    answer = strip_newlines(answer, false);
  }
  out.plain(answer).control("<|im_end|>").plain("\n");
}

void render_qwen3(script& out, message_list messages) {
  std::size_t question = messages.size() - 1;
  for (std::size_t i = 0; i < messages.size(); ++i) {
    if (is(messages[i], "user")) question = i;
  }
  for (std::size_t i = 0; i < messages.size(); ++i) {
    if (is(messages[i], "assistant")) {
      qwen3_answer(out, messages[i], i > question, i + 1 == messages.size());
    } else {
      chatml_turn(out, messages[i].role, messages[i].content);
    }
  }
  out.control("<|im_start|>").plain("assistant\n");
}

void render_llama2(script& out, message_list messages) {
  const bool has_system = is(messages.front(), "system");
  const std::string system = take_system(messages);
  for (std::size_t i = 0; i < messages.size(); ++i) {
    if (is(messages[i], "assistant")) {
      out.plain(" ").plain(strip_white(messages[i].content)).plain(" ").control("</s>");
      continue;
    }
    std::string content;
    if (i == 0 && has_system) {
      content.append("<<SYS>>\n").append(system).append("\n<</SYS>>\n\n");
    }
    content += messages[i].content;
    out.bos().control("[INST]").plain(" ").plain(strip_white(content)).plain(" ");
    out.control("[/INST]");
  }
}

void llama3_turn(script& out,
                 std::string_view role,
                 std::string_view before,
                 std::string_view text) {
  out.control("<|start_header_id|>").plain(role).control("<|end_header_id|>").plain("\n\n");
  out.plain(before).plain(strip_white(text)).control("<|eot_id|>");
}

void render_llama3(script& out, message_list messages, bool with_dates) {
  out.bos();
  if (with_dates) llama3_turn(out, "system", llama3_1_dates, take_system(messages));
  for (const chat_message& message : messages) llama3_turn(out, message.role, "", message.content);
  out.control("<|start_header_id|>").plain("assistant").control("<|end_header_id|>").plain("\n\n");
}

struct mistral_form {
  const char* before_question;
  const char* after_question_space;  // between the question and [/INST]
  const char* before_answer;
  bool system_last;  // the system message goes before the last question, not the first
  bool trims;        // answers
};

void render_mistral(script& out, message_list messages, const mistral_form& form) {
  const bool has_system = is(messages.front(), "system");
  const std::string system = take_system(messages);
  out.bos();
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const chat_message& message = messages[i];
    if (is(message, "assistant")) {
      const std::string_view content = message.content;
      out.plain(form.before_answer).plain(form.trims ? strip_white(content) : content);
      out.control("</s>");
      continue;
    }
    out.plain(form.before_question).control("[INST]").plain(" ");
    if (has_system && i == (form.system_last ? messages.size() - 1 : 0)) {
      out.plain(system).plain("\n\n");
    }
    out.plain(message.content).plain(form.after_question_space).control("[/INST]");
  }
}

void render_gemma(script& out, message_list messages) {
  const bool has_system = is(messages.front(), "system");
  const std::string system = take_system(messages);
  out.bos();
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const bool user = is(messages[i], "user");
    out.control("<start_of_turn>").plain(user ? "user" : "model").plain("\n");
    if (i == 0 && has_system) out.plain(system).plain("\n\n");
    out.plain(strip_white(messages[i].content)).control("<end_of_turn>").plain("\n");
  }
  out.control("<start_of_turn>").plain("model\n");
}

result<script> render(chat_family family,
                      const tokenizer& source,
                      const std::vector<chat_message>& all) {
  if (family == chat_family::none) {
    return unsupported("model.chat_template",
                       "the model file has no chat template; set model.chat_template to a family");
  }
  const message_list messages(all);
  FORETOKEN_TRY(check_roles(messages));
  script out(source);
  switch (family) {
    case chat_family::chatml: render_chatml(out, messages, nullptr); return out;
    case chat_family::smollm2: render_chatml(out, messages, smollm2_system); return out;
    case chat_family::qwen: render_chatml(out, messages, qwen_system); return out;
    case chat_family::qwen2: render_chatml(out, messages, qwen2_system); return out;
    case chat_family::qwen3: render_qwen3(out, messages); return out;
    case chat_family::llama3: render_llama3(out, messages, false); return out;
    case chat_family::llama3_1: render_llama3(out, messages, true); return out;
    default: break;
  }
  FORETOKEN_TRY(check_turns(messages));
  switch (family) {
    case chat_family::llama2: render_llama2(out, messages); break;
    case chat_family::mistral_v1:
      render_mistral(out, messages, {" ", " ", " ", false, false});
      break;
    case chat_family::mistral_v3: render_mistral(out, messages, {"", "", " ", true, true}); break;
    case chat_family::gemma: render_gemma(out, messages); break;
    default: render_mistral(out, messages, {"", " ", "", false, false}); break;
  }
  return out;
}

}  // namespace

result<std::vector<token>> render_chat(chat_family family,
                                       const tokenizer& source,
                                       const std::vector<chat_message>& messages) {
  auto rendered = render(family, source, messages);
  if (!rendered) return std::move(rendered).error();
  return rendered->tokens();
}

result<std::string> render_chat_text(chat_family family,
                                     const tokenizer& source,
                                     const std::vector<chat_message>& messages) {
  auto rendered = render(family, source, messages);
  if (!rendered) return std::move(rendered).error();
  return rendered->text();
}

}  // namespace foretoken::tokenizer
