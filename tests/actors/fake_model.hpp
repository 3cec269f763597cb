// SPDX-License-Identifier: Apache-2.0
#pragma once
// A model for actor tests: 256 byte tokens plus an end token, and a device whose next token is a
// hash of the history it finds in its own pages. A wrong page, position or replay therefore changes
// the text.

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <random>
#include <vector>

#include "actors/protocol.hpp"

namespace foretoken::actors::testing {

constexpr int vocabulary = 257;
constexpr token end_token = 256;

inline model::hyperparameters fake_shape() {
  model::hyperparameters shape;
  shape.name = "fake";
  shape.layers = 0;
  shape.vocabulary = vocabulary;
  shape.context = 512;
  return shape;
}

// The token after `history`: a lower-case letter, so that texts are readable.
inline token next_token(const std::vector<token>& history) {
  std::uint64_t hash = 1469598103934665603u;
  for (const auto id : history) hash = (hash ^ static_cast<std::uint64_t>(id)) * 1099511628211u;
  return static_cast<token>('a' + static_cast<int>((hash >> 20) % 26));
}

// A sequence that begins with `first` kills the device that computes its position `position`.
struct poison {
  token first = -1;
  int position = 0;
};

// No layers: all is done by begin() and head().
class fake_ops : public model::ops {
 public:
  void embed() override {}
  void attention_input(int) override {}
  void attention(int) override {}
  void attention_output(int) override {}
  void ffn_input(int) override {}
  void ffn_output(int) override {}
};

class fake_device final : public fake_ops {
 public:
  fake_device(int pages,
              std::shared_ptr<std::atomic<int>> steps_left,
              std::vector<poison> poisons = {})
      : steps_left_(std::move(steps_left)),
        poisons_(std::move(poisons)),
        memory_(static_cast<std::size_t>(pages * page_tokens), -1) {}
  const model::hyperparameters& shape() const noexcept override { return shape_; }
  int rows_max() const noexcept override { return 512; }
  int pages() const noexcept override { return static_cast<int>(memory_.size()) / page_tokens; }

  status begin(const model::micro_batch& batch) override {
    if (steps_left_ && steps_left_->fetch_sub(1) <= 0) return error{errc::device, "injected fault"};
    for (const auto& copy : batch.copies) {
      for (int i = 0; i < copy.positions; ++i) cell(copy.to, i) = cell(copy.from, i);
    }
    batch_ = &batch;
    for (const auto& slice : batch.slices) {
      for (std::size_t i = 0; i < slice.tokens.size(); ++i) {
        at(slice, slice.position + static_cast<int>(i)) = slice.tokens[i];
      }
      if (kills(slice)) return error{errc::device, "poisoned"};
    }
    return {};
  }

  status head(model::step_result& out) override {
    for (const auto& slice : batch_->slices) {
      model::slice_result answer;
      answer.sequence = slice.sequence;
      std::vector<token> history;
      const int end = slice.position + static_cast<int>(slice.tokens.size());
      for (int i = 0; i < end; ++i) history.push_back(at(slice, i));
      if (slice.sample_last) {
        answer.next.id = next_token(history);
        answer.next.logprob = -1;
        answer.next.top = {{answer.next.id, -1.0f}};
      }
      if (slice.score_all) score(slice, answer);
      out.slices.push_back(std::move(answer));
    }
    return {};
  }

 private:
  static void score(const model::slice& slice, model::slice_result& answer) {
    for (std::size_t i = 0; i < slice.tokens.size(); ++i) {
      const token target = i + 1 < slice.tokens.size() ? slice.tokens[i + 1] : slice.score_next;
      if (target >= 0) answer.scores.push_back({target, -2.0f, {}, false});
    }
  }
  bool kills(const model::slice& slice) {
    const int end = slice.position + static_cast<int>(slice.tokens.size());
    return std::any_of(poisons_.begin(), poisons_.end(), [&](const poison& one) {
      return at(slice, 0) == one.first && one.position >= slice.position && one.position < end;
    });
  }
  token& cell(page_id page, int offset) {
    return memory_.at(static_cast<std::size_t>(static_cast<int>(page) * page_tokens + offset));
  }
  token& at(const model::slice& slice, int position) {
    return cell(slice.pages.at(static_cast<std::size_t>(position / page_tokens)),
                position % page_tokens);
  }

  model::hyperparameters shape_ = fake_shape();
  std::shared_ptr<std::atomic<int>> steps_left_;
  std::vector<poison> poisons_;
  std::vector<token> memory_;
  const model::micro_batch* batch_ = nullptr;
};

// Runs several steps beside each other: each ends only after some looks at it, so that they end in
// another order than they began.
class fake_flights final : public fake_ops {
 public:
  // `beside_rows`: of the further ones.
  fake_flights(std::shared_ptr<fake_device> device, int flights, int beside_rows, unsigned seed)
      : device_(std::move(device)), flights_(flights), beside_rows_(beside_rows), random_(seed) {}
  const model::hyperparameters& shape() const noexcept override { return device_->shape(); }
  int rows_max() const noexcept override { return rows_max_; }
  int pages() const noexcept override { return device_->pages(); }
  status begin(const model::micro_batch& batch) override {
    if (model::rows_of(batch) > rows_max_) return error{errc::internal, "too many rows"};
    batch_ = &batch;
    looks_ = static_cast<int>(random_() % 20);
    return {};
  }
  status head(model::step_result&) override { return {}; }
  bool done() override { return --looks_ < 0; }
  status finish(model::step_result& out) override {
    FORETOKEN_TRY(device_->begin(*batch_));
    return device_->head(out);
  }
  int flights() const noexcept override { return flights_; }
  result<std::unique_ptr<model::ops>> beside() override {
    auto made = std::make_unique<fake_flights>(device_, flights_, beside_rows_,
                                               static_cast<unsigned>(random_()));
    made->rows_max_ = beside_rows_;
    return std::unique_ptr<model::ops>(std::move(made));
  }

 private:
  std::shared_ptr<fake_device> device_;
  int flights_, beside_rows_;
  int rows_max_ = device_->rows_max();
  std::mt19937 random_;
  const model::micro_batch* batch_ = nullptr;
  int looks_ = 0;
};

// The byte-level alphabet: printable bytes stand for themselves, the rest for code points from 256
// on.
inline std::string byte_piece(int byte) {
  const auto printable = [](int b) {
    return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
  };
  int code = byte;
  if (!printable(byte)) {
    code = 256;
    for (int b = 0; b < byte; ++b) code += printable(b) ? 0 : 1;
  }
  if (code < 128) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xC0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3F))};
}

inline std::shared_ptr<const tokenizer::tokenizer> fake_words() {
  tokenizer::vocabulary_spec spec;
  for (int byte = 0; byte < 256; ++byte) spec.pieces.push_back(byte_piece(byte));
  spec.pieces.push_back("<end>");
  spec.kinds.assign(256, tokenizer::token_kind::normal);
  spec.kinds.push_back(tokenizer::token_kind::control);
  spec.eos = end_token;
  spec.end_of_generation = {end_token};
  auto made = tokenizer::tokenizer::make(std::move(spec));
  return made ? std::move(made).value() : nullptr;
}

// `steps_left`: the device fails once that many steps were run in all; null = never.
// `failures_left`: so many devices cannot be made; null = none.
inline std::shared_ptr<const loaded_model> fake_model(
    int pages = 64,
    std::shared_ptr<std::atomic<int>> steps_left = nullptr,
    std::shared_ptr<std::atomic<int>> failures_left = nullptr,
    std::function<bool()> gone = {}) {
  auto made = std::make_shared<loaded_model>();
  made->shape = fake_shape();
  made->words = fake_words();
  made->info.name = "fake";
  made->info.context = made->shape.context;
  made->info.vocabulary = vocabulary;
  const auto make = [pages, steps_left, failures_left]() -> result<std::unique_ptr<model::ops>> {
    if (failures_left && failures_left->fetch_sub(1) > 0)
      return error{errc::device, "no such device"};
    return std::unique_ptr<model::ops>(std::make_unique<fake_device>(pages, steps_left));
  };
  made->devices.push_back({"fake", "fake", pages, make, std::move(gone)});
  return made;
}

// The same on several devices, each of which is lost for good once its flag says so.
using lost_flags = std::vector<std::shared_ptr<std::atomic<bool>>>;
inline std::shared_ptr<const loaded_model> fake_model_on(const lost_flags& lost, int pages = 64) {
  auto made = std::make_shared<loaded_model>(*fake_model(pages));
  made->devices.clear();
  for (const auto& flag : lost) {
    const auto make = [pages, flag]() -> result<std::unique_ptr<model::ops>> {
      if (flag->load()) return error{errc::device, "lost"};
      return std::unique_ptr<model::ops>(std::make_unique<fake_device>(pages, nullptr));
    };
    made->devices.push_back({"fake", "fake", pages, make, [flag] { return flag->load(); }});
  }
  return made;
}

// The same on one device that runs several steps beside each other, all but one of few rows.
inline std::shared_ptr<const loaded_model> fake_model_beside(
    int flights,
    int pages = 64,
    std::shared_ptr<std::atomic<int>> steps_left = nullptr,
    std::vector<poison> poisons = {},
    int beside_rows = scheduler::options{}.beside_rows_max) {
  auto made = std::make_shared<loaded_model>(*fake_model(pages));
  const auto make = [=]() -> result<std::unique_ptr<model::ops>> {
    auto device = std::make_shared<fake_device>(pages, steps_left, poisons);
    return std::unique_ptr<model::ops>(
        std::make_unique<fake_flights>(std::move(device), flights, beside_rows, 3));
  };
  made->devices = {{"fake", "fake", pages, make, {}}};
  return made;
}

// What a greedy stream must say, from the definition alone.
inline std::string expected_text(const std::string& prompt, int tokens) {
  std::vector<token> history;
  for (const char c : prompt) history.push_back(static_cast<unsigned char>(c));
  std::string text;
  for (int i = 0; i < tokens; ++i) {
    history.push_back(next_token(history));
    text += static_cast<char>(history.back());
  }
  return text;
}

// Gathers events; wait() returns when the wanted number of terminal events has come.
class recorder final : public event_sink {
 public:
  void deliver(std::vector<event> events) noexcept override {
    const std::lock_guard lock(mutex_);
    for (auto& one : events) {
      if (one.terminal()) ++terminal_;
      events_.push_back(std::move(one));
    }
    wake_.notify_all();
  }
  bool wait(int terminal, std::chrono::seconds at_most = std::chrono::seconds(30)) {
    std::unique_lock lock(mutex_);
    return wake_.wait_for(lock, at_most, [&] { return terminal_ >= terminal; });
  }
  std::vector<event> events() const {
    const std::lock_guard lock(mutex_);
    return events_;
  }
  int terminal() const {
    const std::lock_guard lock(mutex_);
    return terminal_;
  }
  std::string text(request_id id, int choice = 0) const {
    std::string out;
    for (const auto& one : events()) {
      const auto* piece = std::get_if<token_event>(&one.what);
      if (piece != nullptr && one.request == id && piece->choice == choice) out += piece->text;
    }
    return out;
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<event> events_;
  int terminal_ = 0;
};

}  // namespace foretoken::actors::testing
