// SPDX-License-Identifier: Apache-2.0
#pragma once
// An engine whose readiness can be withdrawn while it still takes requests: load balancers look
// away first, then the drain begins.

#include <atomic>
#include <memory>

#include "actors/engine.hpp"

namespace foretoken::tools {

class draining_engine final : public actors::engine {
 public:
  explicit draining_engine(std::unique_ptr<actors::engine> inner) : inner_(std::move(inner)) {}
  void withdraw() noexcept { withdrawn_.store(true, std::memory_order_relaxed); }

  result<request_id> submit(actors::generate_request request,
                            std::shared_ptr<actors::event_sink> sink) override {
    return inner_->submit(std::move(request), std::move(sink));
  }
  result<request_id> tokenize(std::string text,
                              tokenizer::encode_options how,
                              std::shared_ptr<actors::event_sink> sink) override {
    return inner_->tokenize(std::move(text), how, std::move(sink));
  }
  result<std::string> detokenize(const std::vector<token>& ids) const override {
    return inner_->detokenize(ids);
  }
  void cancel(request_id id) override { inner_->cancel(id); }
  const actors::model_info& model() const noexcept override { return inner_->model(); }
  actors::engine_stats stats() const override { return inner_->stats(); }
  bool ready() const noexcept override {
    return !withdrawn_.load(std::memory_order_relaxed) && inner_->ready();
  }
  bool healthy() const noexcept override { return inner_->healthy(); }
  bool device_lost() const noexcept override { return inner_->device_lost(); }
  std::string metrics_page() override { return inner_->metrics_page(); }
  counters& metrics() noexcept override { return inner_->metrics(); }
  void stop(std::chrono::milliseconds drain) override { inner_->stop(drain); }

 private:
  std::unique_ptr<actors::engine> inner_;
  std::atomic<bool> withdrawn_{false};
};

}  // namespace foretoken::tools
