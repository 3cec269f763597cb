// SPDX-License-Identifier: Apache-2.0
#include "config/keys.hpp"

#include "config/bind.hpp"

namespace foretoken::config {
namespace {

void add_model_keys(std::vector<key>& out) {
  out.push_back(path("model.path",
                     "A .gguf file or a Hugging Face folder. The flag --model sets it.",
                     FORETOKEN_MEMBER(engine.model)));
  out.push_back(text(
      "model.device",
      "auto: a GPU when one is there and the model fits it, else the CPU; or cpu; or "
      "cuda or cuda:N for that GPU or a refusal; cuda:0,1 for several, each with the model and "
      "cache.kv_bytes of its own. See foretoken devices.",
      FORETOKEN_MEMBER(engine.device)));
  out.push_back(
      text("model.chat_template",
           "How messages become a prompt: auto recognises the file's template; or a family: "
           "chatml, smollm2, qwen, llama2, llama3, mistral, gemma, none.",
           FORETOKEN_MEMBER(engine.chat_template)));
  out.push_back(bytes("model.memory_bytes_max", 0, bytes_max,
                      "Refuse a model whose memory plan is larger; 0 = no limit.",
                      FORETOKEN_MEMBER(engine.memory_bytes_max)));
  out.push_back(choice<cpu::numerics>(
      "model.precision",
      {{"exact", cpu::numerics::exact},
       {"fast", cpu::numerics::fast},
       {"float32", cpu::numerics::float32}},
      "exact: 16-bit activations, the answers of float32. fast: 8-bit activations. float32: slow, "
      "for checking. docs/accuracy.md has the figures.",
      FORETOKEN_MEMBER(engine.cpu.precision)));
  out.push_back(integer("model.context_max", 0, 1 << 24,
                        "Cut the model's context to this many tokens; 0 = the model's own.",
                        FORETOKEN_MEMBER(engine.context_max)));
}

void add_device_keys(std::vector<key>& out) {
  out.push_back(integer("cpu.threads", 0, 1024,
                        "Compute threads; 0 = chosen from the cores present.",
                        FORETOKEN_MEMBER(engine.cpu.threads)));
  out.push_back(choice<cpu::isa>("cpu.isa",
                                 {{"auto", cpu::isa::automatic},
                                  {"avx512", cpu::isa::avx512},
                                  {"avx2", cpu::isa::avx2},
                                  {"portable", cpu::isa::portable}},
                                 "Instruction set; auto takes the best the CPU has.",
                                 FORETOKEN_MEMBER(engine.cpu.path)));
  out.push_back(choice<cpu::float_weights>(
      "cpu.float_weights", {{"keep", cpu::float_weights::keep}, {"w8", cpu::float_weights::w8}},
      "Matrices that the file holds as f32, f16 or bf16. keep: as they are, the answers of the "
      "file. "
      "w8: 8-bit weights with a scale per 32, faster and smaller; docs/accuracy.md has what it "
      "costs.",
      FORETOKEN_MEMBER(engine.cpu.floats)));
  out.push_back(choice<cpu::packed_cache>(
      "cpu.packed_cache",
      {{"auto", cpu::packed_cache::automatic},
       {"on", cpu::packed_cache::on},
       {"off", cpu::packed_cache::off}},
      "Keep repacked weights of .gguf files on disk for the next start; auto = of files of 64 MiB "
      "and more.",
      FORETOKEN_MEMBER(engine.cpu.packed.use)));
  out.push_back(path("cpu.packed_cache_folder",
                     "Where they are kept, mode 0700; empty = foretoken/packed in "
                     "$XDG_CACHE_HOME or ~/.cache.",
                     FORETOKEN_MEMBER(engine.cpu.packed.folder)));
  out.push_back(bytes("cpu.packed_cache_bytes_max", 0, bytes_max,
                      "Disk space of all that is kept; the least recently used go.",
                      FORETOKEN_MEMBER(engine.cpu.packed.bytes_max)));
  out.push_back(path("gpu.library",
                     "The library of device code; empty = ../lib/libforetoken_gpu.so beside the "
                     "program.",
                     FORETOKEN_MEMBER(engine.gpu_library)));
  out.push_back(boolean("gpu.cpu_fallback",
                        "When the GPU is lost, its requests go on on the CPU until the process has "
                        "drained and ends with code 70; false = they end with a retryable error.",
                        FORETOKEN_MEMBER(engine.cpu_fallback)));
  out.push_back(choice<gpu::weight_mode>(
      "gpu.weights", {{"f16", gpu::weight_mode::f16}, {"file", gpu::weight_mode::file}},
      "f16: every weight as f16. file: quantised weights keep their 4 or 8 bits; the same bits "
      "come "
      "out, in less memory.",
      FORETOKEN_MEMBER(engine.gpu.weights)));
  out.push_back(integer("gpu.flights", 1, 8,
                        "Steps that run beside each other on a GPU: one of any size, the others of "
                        "at most scheduler.beside_rows_max rows. 1 = one after the other.",
                        FORETOKEN_MEMBER(engine.gpu.flights)));
  out.push_back(boolean("gpu.graphs",
                        "Replay recorded steps of the usual sizes; false for a debugger.",
                        FORETOKEN_MEMBER(engine.gpu.graphs)));
  out.push_back(duration("gpu.record_at_start", 0, 60'000,
                         "Time for recording steps of the usual sizes (prompts of 32 tokens; one "
                         "token each of several sequences) before the first request; 0 = each "
                         "when it first comes, which then takes some milliseconds longer.",
                         FORETOKEN_MEMBER(engine.gpu.record_at_start)));
  out.push_back(
      integer("gpu.fail_at_step", 0, 1e15,
              "A test's fault: the GPU is lost at this step of one of the flights; 0 = never.",
              FORETOKEN_MEMBER(engine.gpu.fail_at_step)));
  out.push_back(bytes("cache.kv_bytes", 1 << 16, bytes_max,
                      "Keys and values of all sequences and of the prefix cache. Address space at "
                      "start, memory as it is touched.",
                      FORETOKEN_MEMBER(engine.cpu.kv_bytes)));
  out.push_back(choice<cpu::kv_type>(
      "cache.kv",
      {{"auto", cpu::kv_type::automatic},
       {"f16", cpu::kv_type::f16},
       {"bf16", cpu::kv_type::bf16},
       {"int8", cpu::kv_type::int8}},
      "How the CPU stores them; auto = f16, and bf16 in fast on processors that multiply it. bf16: "
      "for models that leave f16's range. int8: half the memory, less exact. A GPU stores f16 or "
      "int8. "
      "docs/accuracy.md has the figures.",
      FORETOKEN_MEMBER(engine.cpu.kv)));
}

void add_scheduler_keys(std::vector<key>& out) {
  out.push_back(integer("scheduler.sequences_max", 1, 65536,
                        "Sequences that run at once; the others wait.",
                        FORETOKEN_MEMBER(engine.scheduler.sequences_max)));
  out.push_back(integer("scheduler.waiting_max", 0, 1 << 24,
                        "Sequences that may wait; more are refused.",
                        FORETOKEN_MEMBER(engine.scheduler.waiting_max)));
  out.push_back(integer("scheduler.step_tokens_max", 1, 65536,
                        "Rows (tokens) of one micro-batch; sizes the workspace of a step.",
                        FORETOKEN_MEMBER(engine.scheduler.step_tokens_max)));
  out.push_back(integer("scheduler.prefill_chunk", 1, 65536,
                        "Prompt tokens computed in a step that also decodes.",
                        FORETOKEN_MEMBER(engine.scheduler.prefill_chunk)));
  out.push_back(integer("scheduler.credits", 1, 64,
                        "Micro-batches in flight: one runs, the others are staged.",
                        FORETOKEN_MEMBER(engine.scheduler.credits)));
  out.push_back(boolean("scheduler.stage_late",
                        "Plan the micro-batch behind the running one when that is nearly done, so "
                        "that requests that arrive meanwhile join it; false = at once.",
                        FORETOKEN_MEMBER(engine.scheduler.stage_late)));
  out.push_back(
      integer("scheduler.beside_rows_max", 1, 65536,
              "With gpu.flights: rows in flight up to which another micro-batch starts at "
              "once beside them, else it is staged; and the most rows of all but one of them, "
              "which sizes their memory.",
              FORETOKEN_MEMBER(engine.scheduler.beside_rows_max)));
}

// Whoever has the same setting follows when the key is set.
template <class Copy>
void follow(key& one, Copy copy) {
  one.set = [set = one.set, copy](settings& all, const value& given) {
    set(all, given);
    copy(all);
  };
}

void add_request_keys(std::vector<key>& out) {
  out.push_back(integer("request.open_max", 1, 1 << 24,
                        "Requests accepted and not ended; more are refused.",
                        FORETOKEN_MEMBER(engine.requests_max)));
  out.push_back(bytes("request.prompt_bytes_max", 1, 1 << 30, "Bytes of one prompt.",
                      FORETOKEN_MEMBER(engine.prompt_bytes_max)));
  out.push_back(integer("request.messages_max", 1, 1 << 20, "Messages of one conversation.",
                        FORETOKEN_MEMBER(engine.messages_max)));
  out.push_back(integer("request.choices_max", 1, 1024, "Most choices (n) of one request.",
                        FORETOKEN_MEMBER(engine.choices_max)));
  // The edge refuses what the engine would refuse.
  follow(out.back(), [](settings& all) { all.net.choices_max = all.engine.choices_max; });
  out.push_back(integer("request.logprobs_max", 0, 20, "Most alternatives in logprobs.",
                        FORETOKEN_MEMBER(engine.logprobs_max)));
  out.push_back(integer("request.stops_max", 0, 64, "Most stop strings of one request.",
                        FORETOKEN_MEMBER(engine.stops_max)));
  out.push_back(integer("request.stop_bytes_max", 1, 1 << 16, "Bytes of one stop string.",
                        FORETOKEN_MEMBER(engine.stop_bytes_max)));
  out.push_back(integer("request.logit_bias_max", 0, 1 << 20, "Most entries of logit_bias.",
                        FORETOKEN_MEMBER(engine.logit_bias_max)));
}

void add_actor_keys(std::vector<key>& out) {
  out.push_back(integer("actors.worker_threads", 1, 256, "Threads of the event-based actors.",
                        FORETOKEN_MEMBER(engine.worker_threads)));
  out.push_back(duration("actors.stay_awake", 0, 1000,
                         "How long the network's loop, the batcher and the executors look for more "
                         "work before they sleep: waking a thread takes tens of microseconds. For "
                         "a GPU on a machine with cores to spare; 0 = they sleep at once.",
                         FORETOKEN_MEMBER(engine.stay_awake)));
  follow(out.back(), [](settings& all) { all.net.stay_awake = all.engine.stay_awake; });
  out.push_back(integer("actors.inline_tokenize_bytes", 0, 1 << 24,
                        "Longer text goes to the tokenizer actor instead of the caller's thread.",
                        FORETOKEN_MEMBER(engine.inline_tokenize_bytes)));
  out.push_back(
      duration("actors.restart_backoff", 1, 600'000,
               "Wait before a dead executor is restarted; doubles at each death in a row.",
               FORETOKEN_MEMBER(engine.restart_backoff)));
  out.push_back(duration("actors.restart_backoff_max", 1, 600'000, "The longest such wait.",
                         FORETOKEN_MEMBER(engine.restart_backoff_max)));
  out.push_back(
      integer("actors.crashes_max", 1, 1000,
              "Executor deaths that a request causes, coming no further, before it fails.",
              FORETOKEN_MEMBER(engine.crashes_max)));
  out.push_back(duration("actors.step_time_max", 1000, 3600'000,
                         "A step that takes longer means a device that hangs: requests fail, the "
                         "server reports unhealthy and ends.",
                         FORETOKEN_MEMBER(engine.step_time_max)));
  out.push_back(duration("actors.executor_wait_max", 1, 3600'000,
                         "How long a request waits while no executor is up before it fails.",
                         FORETOKEN_MEMBER(engine.executor_wait_max)));
}

void add_process_keys(std::vector<key>& out) {
  out.push_back(choice<log::level>("log.level",
                                   {{"trace", log::level::trace},
                                    {"debug", log::level::debug},
                                    {"info", log::level::info},
                                    {"warn", log::level::warn},
                                    {"error", log::level::error},
                                    {"off", log::level::off}},
                                   "The least severe messages that are written (to stderr).",
                                   FORETOKEN_MEMBER(log.lowest)));
  out.push_back(choice<log::format>(
      "log.format", {{"plain", log::format::plain}, {"json", log::format::json}},
      "Plain text, or one JSON object a line.", FORETOKEN_MEMBER(log.how)));
  out.push_back(duration("drain.deadline", 0, 86'400'000,
                         "How long running streams may go on after SIGTERM or SIGINT.",
                         FORETOKEN_MEMBER(drain.deadline)));
  out.push_back(duration("drain.linger", 0, 86'400'000,
                         "How long new connections are still accepted after readiness went false.",
                         FORETOKEN_MEMBER(drain.linger)));
}

}  // namespace

const std::vector<key>& keys() {
  static const std::vector<key> table = [] {
    std::vector<key> made;
    add_model_keys(made);
    add_device_keys(made);
    add_scheduler_keys(made);
    add_request_keys(made);
    add_actor_keys(made);
    add_net_keys(made);
    add_process_keys(made);
    return made;
  }();
  return table;
}

std::string section_help(std::string_view section) {
  if (section == "model") return "The model to serve.";
  if (section == "cpu") return "The CPU device.";
  if (section == "gpu") return "The GPU device.";
  if (section == "cache") return "Keys and values of computed tokens.";
  if (section == "scheduler") return "What each step computes.";
  if (section == "request") return "Bounds of one request; beyond them it is refused by name.";
  if (section == "actors") return "Threads, and the restart of a dead executor.";
  if (section == "net") return "Addresses and the bounds of every connection.";
  if (section == "log") return "Messages on stderr; never user text.";
  if (section == "drain") return "The orderly end after SIGTERM or SIGINT.";
  return {};
}

}  // namespace foretoken::config
