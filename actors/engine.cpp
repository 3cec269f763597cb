// SPDX-License-Identifier: Apache-2.0
#include "actors/engine.hpp"

#include <atomic>
#include <random>
#include <shared_mutex>
#include <thread>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "actors/accept.hpp"
#include "actors/batcher_actor.hpp"
#include "actors/cache_manager_actor.hpp"
#include "actors/handles.hpp"
#include "actors/mailbox.hpp"
#include "actors/metrics_actor.hpp"
#include "actors/model_loader_actor.hpp"
#include "actors/supervisor_actor.hpp"
#include "actors/tokenizer_actor.hpp"
#include "base/log.hpp"

namespace foretoken::actors {
namespace {

using namespace std::chrono_literals;
constexpr auto load_timeout = 3600s;  // CAF's own duration knows no hours
// Then the model is taken for broken, and readiness says so until a request gets a token again.
constexpr std::int64_t non_finite_in_a_row_max = 3;

std::uint64_t random_bits() {
  std::random_device source;
  return (static_cast<std::uint64_t>(source()) << 32) | source();
}

struct system_settings : caf::actor_system_config {
  explicit system_settings(int worker_threads) { tune(*this, worker_threads); }
};

// Nothing here blocks except start() and stop(); the rest hands over to actors or reads atomics.
class running_engine final : public engine {
 public:
  explicit running_engine(options chosen)
      : chosen_(std::make_shared<const options>(std::move(chosen))),
        metrics_(std::make_shared<counters>()),
        secret_(random_bits()) {}
  ~running_engine() override { stop(0ms); }

  status start(caf::actor_system* shared,
               std::shared_ptr<const loaded_model> prepared,
               load_progress progress) {
    if (shared == nullptr) {
      settings_ = std::make_unique<system_settings>(chosen_->worker_threads);
      owned_ = std::make_unique<caf::actor_system>(*settings_);
    }
    system_ = shared != nullptr ? shared : owned_.get();
    if (!prepared) {
      auto loaded = load(std::move(progress));
      if (!loaded) return loaded.error();
      prepared = std::move(loaded).value();
    }
    model_ = std::move(prepared);
    spawn_actors();
    return await_executor_up();
  }

  result<request_id> submit(generate_request request, std::shared_ptr<event_sink> sink) override {
    FORETOKEN_TRY(validate(request, *model_, *chosen_));
    const bool inline_text =
        prompt_bytes(request) <= static_cast<std::size_t>(chosen_->inline_tokenize_bytes) ||
        std::holds_alternative<token_prompt>(request.prompt);
    auto accepted = std::make_shared<accepted_request>();
    accepted->id = request_id{++last_request_};
    accepted->sink = std::move(sink);
    accepted->space = name_space(request.cache_salt);
    accepted->seed = request.seed_given ? request.sampling.seed : random_bits();
    accepted->accepted = std::chrono::steady_clock::now();
    accepted->request = std::make_shared<const generate_request>(std::move(request));
    if (inline_text) FORETOKEN_TRY(encode(*accepted, *model_));
    // Behind `accepted`: a dead actor's mailbox drops what it is told, and the last holder of a
    // request delivers its end, which must not happen while the gate is held.
    const std::shared_lock lock(gate_);
    FORETOKEN_TRY(take_place());
    const auto id = accepted->id;
    accepted->ending = {id, accepted->sink, metrics_};
    if (inline_text) {
      tell(metrics_->mailbox_batcher, handles_.batcher, actors::submit{accepted});
    } else {
      tell(metrics_->mailbox_tokenizer, handles_.tokenizer, encode_prompt{accepted});
    }
    return id;
  }

  result<request_id> tokenize(std::string text,
                              tokenizer::encode_options how,
                              std::shared_ptr<event_sink> sink) override {
    if (text.size() > chosen_->prompt_bytes_max) {
      return invalid("text", fmt::format("is longer than {} bytes", chosen_->prompt_bytes_max));
    }
    std::shared_ptr<terminal_promise> answer;
    const std::shared_lock lock(gate_);
    FORETOKEN_TRY(take_place());
    const request_id id{++last_request_};
    answer = std::make_shared<terminal_promise>(id, std::move(sink), metrics_);
    tell(metrics_->mailbox_tokenizer, handles_.tokenizer,
         encode_text{id, std::make_shared<const std::string>(std::move(text)), how, answer});
    return id;
  }

  result<std::string> detokenize(const std::vector<token>& ids) const override {
    FORETOKEN_TRY(check_tokens("tokens", ids, model_->words->size()));
    return model_->words->decode(ids);
  }

  // Behind the submit that it cancels, by both ways that a request can take: a cancellation must
  // not overtake its request.
  void cancel(request_id id) override {
    const std::shared_lock lock(gate_);
    if (!handles_.batcher) return;  // stopped: every request has ended
    tell(metrics_->mailbox_batcher, handles_.batcher, cancel_request{id});
    tell(metrics_->mailbox_tokenizer, handles_.tokenizer, cancel_request{id});
  }

  const model_info& model() const noexcept override { return model_->info; }
  bool ready() const noexcept override {
    return metrics_->executor_up.value() > 0 && !draining_.load() && healthy() && !device_lost() &&
           metrics_->non_finite_in_a_row.value() < non_finite_in_a_row_max;
  }
  bool healthy() const noexcept override { return !broken_->load() && !hangs_->load(); }
  bool device_lost() const noexcept override {
    return model_->device_lost && model_->device_lost();
  }
  std::string metrics_page() override { return board_->page(); }
  counters& metrics() noexcept override { return *metrics_; }

  engine_stats stats() const override {
    const auto counts = pages_->counts();
    return {static_cast<int>(metrics_->requests_open.value()),
            static_cast<int>(metrics_->sequences_waiting.value()),
            static_cast<int>(metrics_->sequences_running.value()),
            counts.free,
            counts.cached,
            counts.used,
            metrics_->executor_restarts.value()};
  }

  void stop(std::chrono::milliseconds drain) override {
    draining_.store(true);
    metrics_->draining.set(1);
    const std::lock_guard lock(stop_mutex_);
    if (handles_.supervisor) {
      { const std::unique_lock closed(gate_); }  // what was accepted is in a mailbox now
      wait_for_idle(drain);
      tell_first(metrics_->mailbox_tokenizer, handles_.tokenizer, cancel_every_request{});
      tell(metrics_->mailbox_batcher, handles_.batcher, cancel_every_request{});
      wait_for_idle(5s);
      end_actors();
    }
    owned_.reset();
    system_ = nullptr;
  }

  engine_handles handles() {
    const std::shared_lock lock(gate_);
    return handles_;
  }

 private:
  result<std::shared_ptr<const loaded_model>> load(load_progress progress) {
    caf::scoped_actor self(*system_);
    auto loader = spawn_model_loader(*system_, metrics_, std::move(progress));
    result<std::shared_ptr<const loaded_model>> out =
        error{errc::internal, "the model loader did not answer"};
    self->request(loader, load_timeout, load_model{chosen_})
        .receive(
            [&](model_loaded& loaded) {
              if (loaded.model)
                out = loaded.model;
              else
                out = loaded.why;
            },
            [&](const caf::error& why) {
              out = error{errc::internal, system_->render(why)};
            });
    self->send_exit(loader, caf::exit_reason::user_shutdown);
    return out;
  }

  void spawn_actors() {
    std::vector<int> pages;
    std::string backends;
    for (const auto& each : model_->devices) {
      pages.push_back(each.kv_pages);
      backends += (backends.empty() ? "" : ",") + each.backend;
    }
    pages_ = std::make_shared<cache::pools>(pages);
    board_ =
        std::make_shared<metrics_board>(metrics_, pages_, what_runs{model_->info.name, backends});
    handles_.cache_manager = spawn_cache_manager(*system_, pages_, metrics_);
    handles_.batcher = spawn_batcher(
        *system_, {model_, pages_, metrics_, chosen_, handles_.cache_manager, hangs_});
    handles_.tokenizer = spawn_tokenizer(*system_, {model_, metrics_, handles_.batcher});
    auto keeper = spawn_metrics(*system_, board_);
    handles_.supervisor =
        spawn_supervisor(*system_, {model_, chosen_, metrics_, handles_.batcher, handles_.tokenizer,
                                    handles_.cache_manager, keeper, broken_, true});
  }

  // A device that never came up is an error of the start, not of every request.
  status await_executor_up() {
    status out;
    caf::scoped_actor self(*system_);
    self->request(handles_.supervisor, load_timeout, await_executor{})
        .receive(
            [&](const start_outcome& outcome) {
              if (!outcome.up) out = error{errc::device, "no device came up: " + outcome.why};
            },
            [&](const caf::error& why) {
              out = error{errc::internal, system_->render(why)};
            });
    return out;
  }

  status take_place() {
    if (draining_.load()) return error{errc::exhausted, "the server is stopping"};
    if (!healthy()) return error{errc::device, "the engine is not healthy"};
    auto& open = metrics_->requests_open;
    if (open.add(1) > chosen_->requests_max) {
      open.add(-1);
      return error{errc::exhausted,
                   fmt::format("{} requests are open already", chosen_->requests_max)};
    }
    return {};
  }

  // Keyed by a secret of this process: nobody can make two salts meet.
  cache::cache_namespace name_space(const std::string& salt) const {
    const auto seed =
        secret_ ^ model_->fingerprint ^ (static_cast<std::uint64_t>(chosen_->cpu.precision) << 1);
    return cache::cache_namespace{XXH3_64bits_withSeed(salt.data(), salt.size(), seed)};
  }

  void wait_for_idle(std::chrono::milliseconds at_most) {
    const auto until = std::chrono::steady_clock::now() + at_most;
    while (metrics_->requests_open.value() > 0 && std::chrono::steady_clock::now() < until) {
      std::this_thread::sleep_for(2ms);
    }
  }

  void end_actors() {
    caf::scoped_actor self(*system_);
    engine_handles last;
    {
      const std::unique_lock closed(gate_);
      last = std::exchange(handles_, {});
    }
    auto root = std::exchange(last, {}).supervisor;
    self->monitor(root);
    self->send_exit(root, caf::exit_reason::user_shutdown);
    bool down = false;
    while (!down) {
      self->receive(
          [&](const caf::down_msg&) { down = true; },
          caf::after(10s) >> [] { log::warn("engine", "still waiting for the actors to stop"); });
    }
  }

  std::shared_ptr<const options> chosen_;
  std::shared_ptr<counters> metrics_;
  std::uint64_t secret_;
  std::unique_ptr<system_settings> settings_;
  std::unique_ptr<caf::actor_system> owned_;
  caf::actor_system* system_ = nullptr;
  std::shared_ptr<const loaded_model> model_;
  std::shared_ptr<cache::pools> pages_;
  std::shared_ptr<metrics_board> board_;
  // Handles are plain pointers and stop() takes them away, so whoever sends holds the gate shared
  // while it reads them; stop() alone holds it for itself, for moments and never while it waits.
  // Passing it also orders: once draining_ is set and the gate was passed, no request comes in.
  mutable std::shared_mutex gate_;
  engine_handles handles_;
  std::atomic<std::uint64_t> last_request_{0};
  std::atomic<bool> draining_{false};
  std::shared_ptr<std::atomic<bool>> broken_ = std::make_shared<std::atomic<bool>>(false);
  std::shared_ptr<std::atomic<bool>> hangs_ = std::make_shared<std::atomic<bool>>(false);
  std::mutex stop_mutex_;
};

result<std::unique_ptr<engine>> make(options chosen,
                                     caf::actor_system* shared,
                                     std::shared_ptr<const loaded_model> prepared,
                                     load_progress progress) {
  auto made = std::make_unique<running_engine>(std::move(chosen));
  FORETOKEN_TRY(made->start(shared, std::move(prepared), std::move(progress)));
  return std::unique_ptr<engine>(std::move(made));
}

}  // namespace

result<std::unique_ptr<engine>> engine::start(options chosen, load_progress progress) {
  return make(std::move(chosen), nullptr, nullptr, std::move(progress));
}

result<std::unique_ptr<engine>> start(options chosen,
                                      caf::actor_system& system,
                                      load_progress progress) {
  return make(std::move(chosen), &system, nullptr, std::move(progress));
}

result<std::unique_ptr<engine>> start(options chosen,
                                      std::shared_ptr<const loaded_model> prepared,
                                      caf::actor_system* system) {
  return make(std::move(chosen), system, std::move(prepared), {});
}

engine_handles handles_of(engine& running) {
  auto* own = dynamic_cast<running_engine*>(&running);
  return own != nullptr ? own->handles() : engine_handles{};
}

}  // namespace foretoken::actors
