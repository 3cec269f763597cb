// SPDX-License-Identifier: Apache-2.0
// Which family a template text belongs to, by what only that family's published template contains.

#include <array>
#include <utility>

#include "tokenizer/chat_template.hpp"

namespace foretoken::tokenizer {
namespace {

constexpr std::array<std::pair<chat_family, const char*>, 13> names = {{
    {chat_family::none, "none"},
    {chat_family::chatml, "chatml"},
    {chat_family::smollm2, "smollm2"},
    {chat_family::qwen, "qwen"},
    {chat_family::qwen2, "qwen2"},
    {chat_family::qwen3, "qwen3"},
    {chat_family::llama2, "llama2"},
    {chat_family::llama3, "llama3"},
    {chat_family::llama3_1, "llama3.1"},
    {chat_family::mistral, "mistral"},
    {chat_family::mistral_v1, "mistral-v1"},
    {chat_family::mistral_v3, "mistral-v3"},
    {chat_family::gemma, "gemma"},
}};

std::string all_names() {
  std::string out;
  for (const auto& [family, name] : names) out.append(out.empty() ? "" : ", ").append(name);
  return out;
}

error unknown_template(const char* what) {
  return unsupported("model.chat_template",
                     std::string(what) + "; set model.chat_template to one of " + all_names());
}

bool has(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

// True when the template writes a system message of its own: after the opening of the system turn
// comes text, not the end of the literal or an expression.
bool has_default_system(std::string_view text) {
  constexpr std::string_view opening = "<|im_start|>system";
  for (std::size_t at = text.find(opening); at != std::string_view::npos;
       at = text.find(opening, at)) {
    at += opening.size();
    std::string_view rest = text.substr(at);
    if (rest.substr(0, 2) == "\\n") {
      rest.remove_prefix(2);
    } else if (rest.substr(0, 1) == "\n") {
      rest.remove_prefix(1);
    }
    if (!rest.empty() && rest[0] != '\'' && rest[0] != '"' && rest[0] != '{') return true;
  }
  return false;
}

result<chat_family> recognise_chatml(std::string_view text) {
  const bool reasons = has(text, "enable_thinking") || has(text, "<think>");
  if (has(text, "You are a helpful AI assistant named SmolLM, trained by Hugging Face") &&
      !reasons && !has(text, "## Metadata")) {
    return chat_family::smollm2;
  }
  if (!has_default_system(text)) {
    if (has(text, "enable_thinking") && has(text, "reasoning_content") &&
        has(text, "last_query_index")) {
      return chat_family::qwen3;
    }
    if (!reasons && !has(text, "You are ")) return chat_family::chatml;
  }
  if (has(text, "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.") &&
      !reasons) {
    return chat_family::qwen;
  }
  if (has(text, "<|im_start|>system\\nYou are a helpful assistant.<|im_end|>") ||
      has(text, "<|im_start|>system\nYou are a helpful assistant.<|im_end|>")) {
    if (!reasons) return chat_family::qwen2;
  }
  return unknown_template("the file's chat template is of the chatml kind but not a known one");
}

result<chat_family> recognise_instruct(std::string_view text) {
  if (has(text, "<<SYS>>")) return chat_family::llama2;
  if (has(text, "[SYSTEM_PROMPT]")) {
    return unknown_template("the file's chat template is a later Mistral one");
  }
  if (has(text, "' [INST] '") || has(text, "\" [INST] \"")) return chat_family::mistral_v1;
  const bool opens = has(text, "'[INST] '") || has(text, "\"[INST] \"");
  if (opens && (has(text, "' [/INST]'") || has(text, "\" [/INST]\""))) return chat_family::mistral;
  if (opens && (has(text, "'[/INST]'") || has(text, "\"[/INST]\""))) return chat_family::mistral_v3;
  return unknown_template("the file's chat template is of the [INST] kind but not a known one");
}

}  // namespace

const char* chat_family_name(chat_family family) noexcept {
  for (const auto& [known, name] : names) {
    if (known == family) return name;
  }
  return "none";
}

result<chat_family> chat_family_from_name(std::string_view name) {
  for (const auto& [family, known] : names) {
    if (name == known) return family;
  }
  return invalid("model.chat_template", "unknown chat template \"" + std::string(name) +
                                            "\"; it is one of " + all_names());
}

result<chat_family> recognise_chat_template(std::string_view template_text) {
  if (template_text.empty()) return chat_family::none;
  if (has(template_text, "<|start_header_id|>")) {
    return has(template_text, "Cutting Knowledge Date") ? chat_family::llama3_1
                                                        : chat_family::llama3;
  }
  if (has(template_text, "<|im_start|>")) return recognise_chatml(template_text);
  if (has(template_text, "<start_of_turn>")) return chat_family::gemma;
  if (has(template_text, "[INST]")) return recognise_instruct(template_text);
  return unknown_template("the file's chat template is not a known one");
}

}  // namespace foretoken::tokenizer
