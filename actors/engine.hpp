// SPDX-License-Identifier: Apache-2.0
#pragma once
// The embedding API: start an engine, submit requests, receive events. No CAF type appears here.
// Every member function may be called from any thread. net/ talks to this interface only (and tests
// fake it).

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "actors/options.hpp"
#include "actors/request.hpp"
#include "base/counters.hpp"
#include "base/result.hpp"

namespace foretoken::actors {

// Receives events. deliver() runs on an engine thread: it must be quick and must not call back into
// the engine's blocking functions (submit and cancel are fine). One call carries the events of one
// step.
class event_sink {
 public:
  virtual ~event_sink() = default;
  virtual void deliver(std::vector<event> events) noexcept = 0;
};

struct model_info {
  std::string name, architecture, format;
  int context = 0, vocabulary = 0;
  std::string chat_family;   // "none" when the model has no chat template
  std::int64_t created = 0;  // Unix seconds: when it was loaded
};

struct engine_stats {
  int requests = 0;              // accepted and not ended
  int waiting = 0, running = 0;  // sequences
  int pages_free = 0, pages_cached = 0, pages_used = 0;
  std::uint64_t executor_restarts = 0;
};

using load_progress =
    std::function<void(const char* stage, std::uint64_t done, std::uint64_t total)>;

class engine {
 public:
  // Loads the model and starts the actors; returns when an executor is up and requests can be
  // answered. Errors: the model's; device when executors died several times in a row before one
  // was.
  static result<std::unique_ptr<engine>> start(options chosen, load_progress progress = {});
  virtual ~engine() = default;  // stop(0s) when still running

  // Errors found at once come back here; later ones as an error_event. Events may arrive before
  // this call has returned the id: on another thread, or on this one when the engine has just died.
  // Errors: invalid_argument (field = the parameter), exhausted (retry later), unsupported.
  virtual result<request_id> submit(generate_request request, std::shared_ptr<event_sink> sink) = 0;
  virtual result<request_id> tokenize(std::string text,
                                      tokenizer::encode_options how,
                                      std::shared_ptr<event_sink> sink) = 0;
  virtual result<std::string> detokenize(const std::vector<token>& ids) const = 0;
  // The request ends soon with its terminal event (cancelled). Unknown or ended id: ignored.
  virtual void cancel(request_id id) = 0;

  virtual const model_info& model() const noexcept = 0;
  virtual engine_stats stats() const = 0;
  // An executor is up, nothing is draining and the last requests did not all end in logits that are
  // not finite.
  virtual bool ready() const noexcept = 0;
  virtual bool healthy() const noexcept = 0;  // no actor is dead that must not be, no step hangs
  // A device is lost until the process is started anew: time to drain and to end.
  virtual bool device_lost() const noexcept { return false; }
  virtual std::string metrics_page() = 0;  // Prometheus text format 0.0.4
  virtual counters& metrics() noexcept = 0;

  // Refuses new requests, lets running ones finish until the deadline, cancels the rest. Every
  // accepted request has had its terminal event when this returns. Idempotent.
  virtual void stop(std::chrono::milliseconds drain) = 0;
};

// A sink that runs one callback per event on a thread of its own, never the executor's. For
// embedders that have no loop. stop() (or the destructor) delivers what is queued and joins.
class delivery_thread final : public event_sink {
 public:
  using callback = std::function<void(const event&)>;
  explicit delivery_thread(callback on_event);
  ~delivery_thread() override;
  void deliver(std::vector<event> events) noexcept override;
  void stop();

 private:
  struct state;
  std::unique_ptr<state> state_;
};

}  // namespace foretoken::actors

namespace foretoken {
using actors::engine;
using actors::generate_request;
}  // namespace foretoken
