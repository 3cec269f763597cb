// SPDX-License-Identifier: Apache-2.0
#pragma once
// Chat templates: the known families, written in C++. A template from a file is only recognised (by
// its text), never executed.

#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "tokenizer/tokenizer.hpp"

namespace foretoken::tokenizer {

struct chat_message {
  std::string role;  // system | user | assistant
  std::string content;
  bool operator==(const chat_message&) const = default;
};

// Generations of a family whose published templates differ have a name of their own: qwen is 2.5,
// llama3_1 also 3.2 and 3.3, mistral the first template of 7B, mistral_v1 its later form with
// spaces.
enum class chat_family {
  none,
  chatml,
  smollm2,
  qwen,
  llama2,
  llama3,
  mistral,
  gemma,
  qwen2,
  qwen3,
  llama3_1,
  mistral_v1,
  mistral_v3,
};
const char* chat_family_name(chat_family family) noexcept;

// The family of a file's template text. none when the file has no template. An unknown template is
// `unsupported` and the message names the config key model.chat_template and the names it takes.
result<chat_family> recognise_chat_template(std::string_view template_text);
result<chat_family> chat_family_from_name(std::string_view name);

// Ids of the conversation with the opening of the assistant's turn. Control text of the template
// becomes control tokens; the same text inside a message's content stays plain text.
// Errors: invalid_argument with field "messages" (unknown role, wrong order for the family, empty);
// unsupported with field "model.chat_template" for the family none.
result<std::vector<token>> render_chat(chat_family family,
                                       const tokenizer& source,
                                       const std::vector<chat_message>& messages);
// The same as text, for tests and people (BOS as the family writes it).
result<std::string> render_chat_text(chat_family family,
                                     const tokenizer& source,
                                     const std::vector<chat_message>& messages);

}  // namespace foretoken::tokenizer
