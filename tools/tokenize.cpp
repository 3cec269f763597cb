// SPDX-License-Identifier: Apache-2.0
// foretoken tokenize: text to token ids, or with --decode ids to text.
#include <charconv>
#include <cstdio>
#include <memory>

#include "model/model_file.hpp"
#include "tokenizer/tokenizer.hpp"
#include "tools/command.hpp"

namespace foretoken::tools {
namespace {

struct tokenize_flags {
  settings_flags settings;
  std::string text;
  bool no_special = false, parse_special = false, pieces = false, decode = false;
};

std::string visible(std::string_view bytes) {
  static constexpr std::string_view digits = "0123456789abcdef";
  std::string out;
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7F && c != '\\') {
      out += c;
    } else {
      out.append("\\x").append(1, digits[byte >> 4]).append(1, digits[byte & 15]);
    }
  }
  return out;
}

result<std::vector<token>> parse_ids(std::string_view text, int vocabulary) {
  std::vector<token> ids;
  while (true) {
    while (!text.empty() &&
           std::string_view(" ,\n\t[]").find(text.front()) != std::string_view::npos) {
      text.remove_prefix(1);
    }
    if (text.empty()) return ids;
    token id = -1;
    const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), id);
    if (code != std::errc{} || id < 0 || id >= vocabulary) {
      return invalid("text",
                     "token ids are whole numbers from 0 to " + std::to_string(vocabulary - 1));
    }
    ids.push_back(id);
    text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  }
}

int run_tokenize(const tokenize_flags& flags) {
  const auto settings = flags.settings.load();
  if (!settings) return report_usage(settings.error());
  if (settings->engine.model.empty()) return report_usage(invalid("--model", "is needed"));
  const auto text = read_prompt(flags.text);
  if (!text) return report_usage(text.error());
  const auto file = model::model_file::load(settings->engine.model);
  if (!file) return report_usage(file.error());
  const auto words = tokenizer::tokenizer::make((*file)->vocabulary);
  if (!words) return report_usage(words.error());
  if (flags.decode) {
    const auto ids = parse_ids(*text, (*words)->size());
    if (!ids) return report_usage(ids.error());
    const std::string out = (*words)->decode(*ids);
    std::fwrite(out.data(), 1, out.size(), stdout);
    return std::fflush(stdout) == 0 ? exit_success : exit_failure;
  }
  const auto ids = (*words)->encode(*text, {!flags.no_special, flags.parse_special});
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (flags.pieces) {
      std::printf("%d\t%s\n", ids[i], visible((*words)->bytes(ids[i], true)).c_str());
    } else {
      std::printf("%s%d", i == 0 ? "" : " ", ids[i]);
    }
  }
  if (!flags.pieces) std::printf("\n");
  return std::fflush(stdout) == 0 ? exit_success : exit_failure;
}

}  // namespace

void add_tokenize(CLI::App& app, action& chosen) {
  auto flags = std::make_shared<tokenize_flags>();
  CLI::App* command = app.add_subcommand("tokenize", "Print the token ids of a text");
  flags->settings.add(*command);
  command->add_option("text", flags->text, "The text; - reads stdin")->required();
  command->add_flag("--no-special", flags->no_special, "Leave out BOS and EOS");
  command->add_flag("--parse-special", flags->parse_special,
                    "Control-token text becomes control tokens");
  command->add_flag("--pieces", flags->pieces, "One token a line: id and bytes");
  command->add_flag("--decode", flags->decode, "The text is token ids; print what they mean");
  command->callback([&chosen, flags] { chosen = [flags] { return run_tokenize(*flags); }; });
}

}  // namespace foretoken::tools
