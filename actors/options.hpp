// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>

#include "cpu/options.hpp"
#include "gpu/options.hpp"
#include "scheduler/options.hpp"

namespace foretoken::actors {

struct options {
  std::filesystem::path model;         // .gguf file or Hugging Face folder
  std::string device = "auto";         // auto, cpu, cuda or cuda:0,1 (gpu/devices.hpp)
  std::filesystem::path gpu_library;   // empty = beside the program
  bool cpu_fallback = true;            // requests of a lost GPU move to the CPU
  std::string chat_template = "auto";  // auto = recognise the file's; or a family's name
  std::uint64_t memory_bytes_max = 0;  // refuse a model whose plan is larger; 0 = no limit
  int context_max = 0;                 // cut the model's context; 0 = the model's own
  int choices_max = 16;                // n of one request
  int logprobs_max = 20;
  int stops_max = 16;         // stop strings of one request
  int stop_bytes_max = 256;   // bytes of one stop string
  int logit_bias_max = 1024;  // entries of logit_bias
  std::uint64_t prompt_bytes_max = 4u << 20;
  int messages_max = 2048;                        // of one conversation
  int requests_max = 1024;                        // accepted and not ended; more are refused
  int inline_tokenize_bytes = 2048;               // longer text goes to the tokenizer actor
  int worker_threads = 1;                         // CAF workers for the event-based actors
  std::chrono::milliseconds stay_awake{0};        // batcher and executor, after a message
  std::chrono::milliseconds restart_backoff{10};  // doubles up to restart_backoff_max
  std::chrono::milliseconds restart_backoff_max{1000};
  int crashes_max = 3;  // executor deaths that a request causes, coming no further, before it fails
  // A step that takes longer makes the engine unhealthy: a thread that hangs cannot be ended.
  std::chrono::milliseconds step_time_max{300'000};
  std::chrono::milliseconds executor_wait_max{
      30'000};  // a request without any executor: then it fails
  cpu::options cpu;
  gpu::options gpu;  // rows and KV bytes are those of scheduler and cpu
  scheduler::options scheduler;
};

}  // namespace foretoken::actors
