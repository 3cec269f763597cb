// SPDX-License-Identifier: Apache-2.0
// foretoken complete: prompt in, streamed text out. Only the continuation goes to stdout.
#include <unistd.h>

#include <condition_variable>
#include <cstdio>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>

#include "actors/engine.hpp"
#include "tools/command.hpp"

namespace foretoken::tools {
namespace {

struct complete_flags {
  settings_flags settings;
  actors::generate_request request;
  std::string prompt, system;
  bool chat = false;
  std::optional<std::uint64_t> seed;
};

// Waits for the terminal event while text streams out on the delivery thread.
class stream_printer {
 public:
  void receive(const actors::event& event) {
    if (const auto* token = std::get_if<actors::token_event>(&event.what)) {
      written_ =
          written_ &&
          std::fwrite(token->text.data(), 1, token->text.size(), stdout) == token->text.size() &&
          std::fflush(stdout) == 0;
    }
    if (!event.terminal()) return;
    const std::lock_guard lock(mutex_);
    if (const auto* failed = std::get_if<actors::error_event>(&event.what))
      failure_ = failed->failure;
    ended_ = true;
    changed_.notify_all();
  }

  int wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return ended_; });
    if (failure_) return report(*failure_);
    if (!written_) return report({errc::internal, "cannot write to stdout"});
    if (isatty(STDOUT_FILENO) == 1) std::puts("");
    return exit_success;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ended_ = false;
  bool written_ = true;  // touched by the delivery thread until ended_
  std::optional<error> failure_;
};

int run_complete(complete_flags& flags) {
  auto settings = flags.settings.load();
  if (!settings) return report_usage(settings.error());
  if (settings->engine.model.empty()) return report_usage(invalid("--model", "is needed"));
  use_cache_folder(*settings);
  auto prompt = read_prompt(flags.prompt);
  if (!prompt) return report_usage(prompt.error());
  if (flags.chat) {
    actors::chat_prompt messages;
    if (!flags.system.empty()) messages.push_back({"system", flags.system});
    messages.push_back({"user", *std::move(prompt)});
    flags.request.prompt = std::move(messages);
  } else {
    if (!flags.system.empty()) return report_usage(invalid("--system", "needs --chat"));
    flags.request.prompt = *std::move(prompt);
  }
  flags.request.seed_given = flags.seed.has_value();
  flags.request.sampling.seed = flags.seed.value_or(0);

  progress_bar bar;
  auto engine = actors::engine::start(
      settings->engine, [&](const char* stage, std::uint64_t done, std::uint64_t total) {
        bar.show(stage, done, total);
      });
  bar.finish();
  if (!engine) return report_usage(engine.error());
  stream_printer printer;
  const auto sink = std::make_shared<actors::delivery_thread>(
      [&printer](const actors::event& event) { printer.receive(event); });
  const auto submitted = (*engine)->submit(std::move(flags.request), sink);
  const int code = submitted ? printer.wait() : report_usage(submitted.error());
  (*engine)->stop(std::chrono::milliseconds(0));
  sink->stop();
  return code;
}

void add_sampling_flags(CLI::App& command, complete_flags& flags) {
  model::sampling_parameters& sampling = flags.request.sampling;
  command.add_option("--temperature", sampling.temperature, "0 = always the most probable token")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  command.add_option("--top-k", sampling.top_k, "0 = off")
      ->check(CLI::Range(0, std::numeric_limits<int>::max()));
  command.add_option("--top-p", sampling.top_p, "1 = off")->check(CLI::Range(0.0, 1.0));
  command.add_option("--min-p", sampling.min_p, "0 = off")->check(CLI::Range(0.0, 1.0));
  command.add_option("--repetition-penalty", sampling.repetition_penalty, "1 = off")
      ->check(CLI::Range(0.01, 100.0));
  command.add_option("--presence-penalty", sampling.presence_penalty, "0 = off")
      ->check(CLI::Range(-2.0, 2.0));
  command.add_option("--frequency-penalty", sampling.frequency_penalty, "0 = off")
      ->check(CLI::Range(-2.0, 2.0));
  command.add_option("--seed", flags.seed, "Makes sampling repeatable")
      ->check([](const std::string& text) {  // CLI11 would read -1 as 2^64 - 1
        return text.starts_with('-') ? "must be 0 or more" : std::string();
      });
}

}  // namespace

void add_complete(CLI::App& app, action& chosen) {
  auto flags = std::make_shared<complete_flags>();
  CLI::App* command = app.add_subcommand("complete", "Continue a prompt");
  flags->settings.add(*command);
  flags->request.max_tokens = 128;
  command->add_option("--max-tokens", flags->request.max_tokens, "Tokens to generate at most")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{std::numeric_limits<std::int32_t>::max()}))
      ->capture_default_str();
  add_sampling_flags(*command, *flags);
  command->add_option("--stop", flags->request.stop, "Text that ends the answer; may be repeated")
      ->allow_extra_args(false);
  command->add_flag("--chat", flags->chat,
                    "The prompt is a user's message: apply the chat template");
  command->add_option("--system", flags->system, "The system message, with --chat");
  command->add_flag("--parse-special", flags->request.parse_special,
                    "Control-token text in the prompt becomes control tokens");
  command->add_flag("--ignore-eos", flags->request.ignore_eos, "Go on after the end of the text");
  command->add_option("prompt", flags->prompt, "The prompt; - reads stdin")->required();
  command->callback([&chosen, flags] { chosen = [flags] { return run_complete(*flags); }; });
}

}  // namespace foretoken::tools
