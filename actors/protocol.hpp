// SPDX-License-Identifier: Apache-2.0
#pragma once
// Every message between actors, and every actor's interface: one struct a message, commands in the
// imperative, facts in the past tense. Payloads are shared and immutable; nothing here leaves the
// process. A new CAF version touches this file and the spawn functions.

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <caf/all.hpp>

#include "actors/devices.hpp"
#include "actors/options.hpp"
#include "actors/request.hpp"
#include "actors/request_book.hpp"
#include "model/micro_batch.hpp"
#include "model/ops.hpp"
#include "tokenizer/tokenizer.hpp"

namespace foretoken::actors {

// What a model loader brings: everything the other actors share, immutable.
struct loaded_model {
  model::hyperparameters shape;
  std::shared_ptr<const tokenizer::tokenizer> words;
  tokenizer::chat_family chat = tokenizer::chat_family::none;
  error chat_problem;  // why chat is none, when the file's template is unknown
  model_info info;
  std::uint64_t fingerprint = 0;
  std::vector<prepared_device> devices;  // at least one; each has an executor
  // All that it was to run on are lost for good: the process must end; may be empty.
  std::function<bool()> device_lost;
};

// -- batcher
struct submit {
  std::shared_ptr<accepted_request> request;  // its only holder: the batcher takes it over
};
struct cancel_request {
  request_id id{};
};
struct cancel_every_request {};
struct step_done {
  int device = 0;
  std::uint64_t epoch = 0;  // the incarnation of the executor that ran it
  std::shared_ptr<const model::step_result> result;
  std::chrono::nanoseconds took{};
  time_point ended{};
};
struct staging_due {};  // the running step is nearly done: time to plan the next one
struct look_around {};  // time to see who has waited too long: for an executor, or for its step
struct executor_lost {
  int device = 0;
  std::uint64_t epoch = 0;
  bool ordered = false;   // killed by command: no request is to blame
  bool for_good = false;  // no other will come up, here or on another device
};

// -- executor
struct prepare_device {};
struct device_ready {
  int flights = 1;  // micro-batches that it runs beside each other
};
struct look_at_flights {};  // the executor's to itself, while its device computes
struct run_step {
  std::shared_ptr<const model::micro_batch> batch;
  time_point waited_since{};  // the first of those in it that could have been computed
};

// -- tokenizer
struct encode_prompt {
  std::shared_ptr<accepted_request> request;
};
struct encode_text {
  request_id id{};
  std::shared_ptr<const std::string> text;
  tokenizer::encode_options how;
  std::shared_ptr<terminal_promise> answer;
};

// -- cache manager
struct pages_released {};

// -- metrics
struct sample_metrics {};

// -- model loader
struct load_model {
  std::shared_ptr<const options> chosen;
};
struct model_loaded {
  std::shared_ptr<const loaded_model> model;
  error why;
};  // no model: why

// -- supervisor
struct restart_executor {  // an operator's or a test's command: kill it, start anew
  int device = 0;
};
struct executor_due {  // the back-off is over
  int device = 0;
};
struct await_executor {};  // answered when one is up, or when the first ones have failed in a row
struct start_outcome {
  bool up = false;
  std::string why;  // not up: the last failure
};

using executor_actor = caf::typed_actor<caf::replies_to<prepare_device>::with<device_ready>,
                                        caf::reacts_to<run_step>,
                                        caf::reacts_to<look_at_flights>>;
struct executor_up {
  int device = 0;
  std::uint64_t epoch = 0;
  executor_actor executor;
  int flights = 1;
};
using batcher_actor = caf::typed_actor<caf::reacts_to<submit>,
                                       caf::reacts_to<cancel_request>,
                                       caf::reacts_to<cancel_every_request>,
                                       caf::reacts_to<step_done>,
                                       caf::reacts_to<executor_up>,
                                       caf::reacts_to<executor_lost>,
                                       caf::reacts_to<staging_due>,
                                       caf::reacts_to<look_around>>;
using tokenizer_actor = caf::typed_actor<caf::reacts_to<encode_prompt>,
                                         caf::reacts_to<encode_text>,
                                         caf::reacts_to<cancel_request>,
                                         caf::reacts_to<cancel_every_request>>;
using cache_manager_actor = caf::typed_actor<caf::reacts_to<pages_released>>;
using metrics_actor = caf::typed_actor<caf::reacts_to<sample_metrics>>;
using model_loader_actor = caf::typed_actor<caf::replies_to<load_model>::with<model_loaded>>;
using supervisor_actor = caf::typed_actor<caf::reacts_to<restart_executor>,
                                          caf::reacts_to<executor_due>,
                                          caf::replies_to<await_executor>::with<start_outcome>>;

}  // namespace foretoken::actors

CAF_ALLOW_UNSAFE_MESSAGE_TYPE(foretoken::actors::submit)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(foretoken::actors::cancel_request)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(foretoken::actors::cancel_every_request)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(foretoken::actors::step_done)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(foretoken::actors::executor_lost)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(foretoken::actors::executor_up)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(foretoken::actors::staging_due)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(foretoken::actors::look_around)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(foretoken::actors::prepare_device)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(foretoken::actors::device_ready)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(foretoken::actors::look_at_flights)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(foretoken::actors::run_step)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(foretoken::actors::encode_prompt)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(foretoken::actors::encode_text)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(foretoken::actors::pages_released)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(foretoken::actors::sample_metrics)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(foretoken::actors::load_model)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(foretoken::actors::model_loaded)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(foretoken::actors::restart_executor)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(foretoken::actors::executor_due)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(foretoken::actors::await_executor)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(foretoken::actors::start_outcome)
