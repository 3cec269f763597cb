// SPDX-License-Identifier: Apache-2.0
#pragma once
// An engine without a model: it answers with scripted pieces from a thread of its own. A prompt
// decides what happens: "slow" never ends by itself, "fail" ends in an error at once, "late" fails
// after a piece, "full" is refused, "flood" pours out text; anything else comes back in pieces of
// one letter.

#include <atomic>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>

#include "actors/engine.hpp"

namespace foretoken::test {

class fake_engine final : public actors::engine {
 public:
  fake_engine() : worker_([this] { work(); }) {
    info.name = "fake";
    info.context = 128;
    info.created = 7;
  }
  ~fake_engine() override {
    {
      const std::lock_guard hold(guard_);
      leave_ = true;
    }
    changed_.notify_all();
    worker_.join();
  }

  result<request_id> submit(actors::generate_request request,
                            std::shared_ptr<actors::event_sink> sink) override {
    const auto* text = std::get_if<std::string>(&request.prompt);
    if (text != nullptr && *text == "full") return error{errc::exhausted, "the queue is full"};
    if (text != nullptr && text->empty()) return invalid("prompt", "the prompt is empty");
    return add({std::move(request), {}, std::move(sink)});
  }
  result<request_id> tokenize(std::string text,
                              tokenizer::encode_options how,
                              std::shared_ptr<actors::event_sink> sink) override {
    std::vector<token> ids;
    if (how.add_special) ids.push_back(1);
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    job made{{}, actors::tokens_event{ids}, std::move(sink)};
    return add(std::move(made));
  }
  result<std::string> detokenize(const std::vector<token>& ids) const override {
    std::string text;
    for (const auto id : ids) {
      if (id >= 128) return invalid("tokens", "no such id");
      text += static_cast<char>(id);
    }
    return text;
  }
  void cancel(request_id id) override {
    {
      const std::lock_guard hold(guard_);
      cancelled_.insert(id);
      ++cancels;
    }
    changed_.notify_all();
  }
  const actors::model_info& model() const noexcept override { return info; }
  actors::engine_stats stats() const override { return {}; }
  bool ready() const noexcept override { return is_ready; }
  bool healthy() const noexcept override { return true; }
  std::string metrics_page() override { return page; }
  counters& metrics() noexcept override { return metrics_; }
  void stop(std::chrono::milliseconds) override {}

  // Waits until nothing runs; false after ten seconds.
  bool wait_idle() {
    std::unique_lock hold(guard_);
    return changed_.wait_for(hold, std::chrono::seconds(10), [this] { return live_ == 0; });
  }
  // Waits until `count` requests were accepted in all.
  bool wait_accepted(std::uint64_t count) {
    std::unique_lock hold(guard_);
    return changed_.wait_for(hold, std::chrono::seconds(10), [&] { return last_ >= count; });
  }
  bool any_accepted() {
    const std::lock_guard hold(guard_);
    return last_ != 0;
  }
  actors::model_info info;            // so is this
  std::string page = "# HELP x y\n";  // set before a client asks
  std::atomic<int> cancels{0};
  std::atomic<bool> is_ready{true};

 private:
  struct job {
    actors::generate_request request;
    std::optional<actors::tokens_event> answer;
    std::shared_ptr<actors::event_sink> sink;
    std::size_t at = 0;
  };

  request_id add(job made) {
    request_id id{};
    {
      const std::lock_guard hold(guard_);
      id = request_id{++last_};
      jobs_.emplace(id, std::move(made));
      ++live_;
    }
    changed_.notify_all();
    return id;
  }

  static std::string text_of(const actors::generate_request& request) {
    if (const auto* text = std::get_if<std::string>(&request.prompt)) return *text;
    if (const auto* talk = std::get_if<actors::chat_prompt>(&request.prompt))
      return talk->back().content;
    std::string out;
    for (const auto id : std::get<actors::token_prompt>(request.prompt))
      out += static_cast<char>(id);
    return out;
  }

  static actors::token_event piece(const job& from, int choice, std::string text) {
    actors::token_event made{choice, text, {static_cast<token>(text[0])}, {}};
    if (from.request.sampling.logprobs >= 0) {
      made.logprobs.push_back(
          {made.ids[0], text, text, -0.5f, {{made.ids[0], text, text, -0.5f}}, 3, false});
    }
    return made;
  }

  // One step of one job; true when it has ended.
  bool step(request_id id, job& from, bool cancelled) {
    std::vector<actors::event> out;
    const auto end = [&](actors::finish_reason why) {
      std::vector<actors::finish_reason> reasons(static_cast<std::size_t>(from.request.n), why);
      for (int i = 0; i < from.request.n; ++i) out.push_back({id, actors::choice_event{i, why}});
      out.push_back({id, actors::done_event{reasons, {5, static_cast<int>(from.at), 2}}});
    };
    const auto text = text_of(from.request);
    if (from.answer) {
      out.push_back({id, *from.answer});
    } else if (cancelled) {
      end(actors::finish_reason::cancelled);
    } else if (text == "fail" || (text == "late" && from.at == 1)) {
      out.push_back({id, actors::error_event{{errc::device, "the device is gone"}}});
    } else if (text == "slow" && from.at > 0) {
      return false;
    } else if (text == "flood") {
      ++from.at;
      out.push_back({id, piece(from, 0, std::string(32768, 'x'))});
    } else if (from.at < text.size() &&
               static_cast<std::int64_t>(from.at) < from.request.max_tokens) {
      for (int i = 0; i < from.request.n; ++i)
        out.push_back({id, piece(from, i, std::string(1, text[from.at]))});
      ++from.at;
    } else {
      end(from.at < text.size() ? actors::finish_reason::length : actors::finish_reason::stop);
    }
    const bool ended = out.back().terminal();
    from.sink->deliver(std::move(out));
    return ended;
  }

  void work() {
    std::unique_lock hold(guard_);
    while (!leave_) {
      bool waiting = true;
      for (auto at = jobs_.begin(); at != jobs_.end();) {
        const auto before = at->second.at;
        const bool ended = step(at->first, at->second, cancelled_.contains(at->first));
        waiting = waiting && !ended && at->second.at == before;
        if (ended) {
          at = jobs_.erase(at);
          --live_;
          changed_.notify_all();
        } else {
          ++at;
        }
      }
      if (waiting) {
        changed_.wait_for(hold, std::chrono::milliseconds(1));
      } else {
        hold.unlock();
        std::this_thread::yield();
        hold.lock();
      }
    }
  }

  counters metrics_;
  std::mutex guard_;
  std::condition_variable changed_;
  std::map<request_id, job> jobs_;
  std::set<request_id> cancelled_;
  std::uint64_t last_ = 0;
  int live_ = 0;
  bool leave_ = false;
  std::thread worker_;
};

}  // namespace foretoken::test
