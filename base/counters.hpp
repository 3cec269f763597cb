// SPDX-License-Identifier: Apache-2.0
#pragma once
// Counters, gauges and histograms that any thread may touch: relaxed atomics, no lock, no name
// lookup. The table of names, units and help texts stands here, once; actors/metrics renders it.

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace foretoken {

// X(member, name, labels, help). Names end in their unit; counters end in _total.
#define FORETOKEN_COUNTERS(X)                                                                     \
  X(requests_completions, "foretoken_requests_total", "api=\"completions\"", "Requests accepted") \
  X(requests_chat, "foretoken_requests_total", "api=\"chat\"", "Requests accepted")               \
  X(requests_tokenize, "foretoken_requests_total", "api=\"tokenize\"", "Requests accepted")       \
  X(finished_stop, "foretoken_requests_finished_total", "reason=\"stop\"", "Requests ended")      \
  X(finished_length, "foretoken_requests_finished_total", "reason=\"length\"", "Requests ended")  \
  X(finished_cancelled, "foretoken_requests_finished_total", "reason=\"cancelled\"",              \
    "Requests ended")                                                                             \
  X(finished_error, "foretoken_requests_finished_total", "reason=\"error\"", "Requests ended")    \
  X(rejected_invalid, "foretoken_requests_rejected_total", "reason=\"invalid\"",                  \
    "Requests refused")                                                                           \
  X(rejected_overload, "foretoken_requests_rejected_total", "reason=\"overload\"",                \
    "Requests refused")                                                                           \
  X(prompt_tokens, "foretoken_prompt_tokens_total", "", "Prompt tokens of admitted requests")     \
  X(generated_tokens, "foretoken_generated_tokens_total", "", "Tokens generated")                 \
  X(cached_tokens, "foretoken_prefix_cache_hit_tokens_total", "",                                 \
    "Prompt tokens found in the cache")                                                           \
  X(preemptions, "foretoken_preemptions_total", "", "Sequences preempted to be recomputed")       \
  X(recovered, "foretoken_requests_recovered_total", "",                                          \
    "Sequences replayed after an executor died")                                                  \
  X(executor_restarts, "foretoken_executor_restarts_total", "", "Executor restarts")              \
  X(kv_saturated, "foretoken_kv_saturated_values_total", "",                                      \
    "Keys or values clamped to the f16 range")                                                    \
  X(non_finite_logits, "foretoken_non_finite_logits_total", "",                                   \
    "Rows whose logits were not finite")                                                          \
  X(slow_readers, "foretoken_slow_consumer_disconnects_total", "",                                \
    "Connections cut: peer did not read")                                                         \
  X(http_errors, "foretoken_protocol_errors_total", "protocol=\"http\"",                          \
    "Malformed input from peers")                                                                 \
  X(websocket_errors, "foretoken_protocol_errors_total", "protocol=\"websocket\"",                \
    "Malformed input from peers")                                                                 \
  X(tcp_errors, "foretoken_protocol_errors_total", "protocol=\"tcp\"", "Malformed input from peers")

#define FORETOKEN_GAUGES(X)                                                                       \
  X(requests_open, "foretoken_requests_open", "", "Requests accepted and not ended")              \
  X(sequences_waiting, "foretoken_sequences_waiting", "", "Sequences waiting for the device")     \
  X(sequences_running, "foretoken_sequences_running", "", "Sequences that hold KV pages")         \
  X(kv_pages_free, "foretoken_kv_pages", "state=\"free\"", "KV pages by state")                   \
  X(kv_pages_cached, "foretoken_kv_pages", "state=\"cached\"", "KV pages by state")               \
  X(kv_pages_used, "foretoken_kv_pages", "state=\"used\"", "KV pages by state")                   \
  X(executor_up, "foretoken_executors_up", "", "Executors that run, one a device")                \
  X(cpu_threads_working, "foretoken_cpu_threads_working", "",                                     \
    "Compute threads at work: fewer while other programs use the cores")                          \
  X(non_finite_in_a_row, "foretoken_non_finite_requests_in_a_row", "",                            \
    "Requests in a row ended by logits that were not finite")                                     \
  X(draining, "foretoken_draining", "", "1 while the engine refuses new requests to stop")        \
  X(mailbox_batcher, "foretoken_actor_mailbox_messages", "actor=\"batcher\"", "Messages waiting") \
  X(mailbox_executor, "foretoken_actor_mailbox_messages", "actor=\"executor\"",                   \
    "Messages waiting")                                                                           \
  X(mailbox_tokenizer, "foretoken_actor_mailbox_messages", "actor=\"tokenizer\"",                 \
    "Messages waiting")                                                                           \
  X(mailbox_cache_manager, "foretoken_actor_mailbox_messages", "actor=\"cache_manager\"",         \
    "Messages waiting")                                                                           \
  X(connections_http, "foretoken_connections", "protocol=\"http\"", "Open connections")           \
  X(connections_websocket, "foretoken_connections", "protocol=\"websocket\"", "Open connections") \
  X(connections_tcp, "foretoken_connections", "protocol=\"tcp\"", "Open connections")             \
  X(output_buffer_bytes, "foretoken_output_buffer_bytes", "", "Bytes waiting for slow readers")

// X(member, name, help, edges): edges is one of the arrays below.
#define FORETOKEN_HISTOGRAMS(X)                                                                 \
  X(time_to_first_token, "foretoken_time_to_first_token_seconds", "Acceptance to first token",  \
    wide_edges)                                                                                 \
  X(request_duration, "foretoken_request_duration_seconds", "Acceptance to the terminal event", \
    wide_edges)                                                                                 \
  X(queue_time, "foretoken_queue_time_seconds", "Acceptance to the first step", fast_edges)     \
  X(inter_token, "foretoken_inter_token_latency_seconds", "Token to next token of one choice",  \
    fast_edges)                                                                                 \
  X(step_time, "foretoken_executor_step_seconds", "One forward step", fast_edges)               \
  X(step_gap, "foretoken_executor_gap_seconds",                                                 \
    "Device without work before a step while somebody in it waited", fast_edges)                \
  X(loop_lag, "foretoken_event_loop_lag_seconds", "One turn of the network loop", fast_edges)   \
  X(batch_sequences, "foretoken_batch_size", "Sequences in a step", count_edges)                \
  X(batch_tokens, "foretoken_batch_tokens", "Rows in a step", count_edges)

inline constexpr std::array fast_edges{1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3,
                                       1e-2, 2.5e-2, 5e-2, 1e-1, 2.5e-1, 5e-1, 1.0,  2.5};
inline constexpr std::array wide_edges{1e-4,   2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2,
                                       2.5e-2, 5e-2,   0.1,  0.25, 0.5,    1.0,  2.5,
                                       5.0,    10.0,   25.0, 50.0, 60.0};
inline constexpr std::array count_edges{1.0,    2.0,    4.0,     8.0,     16.0,    32.0,
                                        64.0,   128.0,  256.0,   512.0,   1024.0,  2048.0,
                                        4096.0, 8192.0, 16384.0, 32768.0, 65536.0, 131072.0};

class counter {
 public:
  void add(std::uint64_t amount = 1) noexcept {
    value_.fetch_add(amount, std::memory_order_relaxed);
  }
  std::uint64_t value() const noexcept { return value_.load(std::memory_order_relaxed); }

 private:
  alignas(64) std::atomic<std::uint64_t> value_{0};
};

class gauge {
 public:
  void set(std::int64_t value) noexcept { value_.store(value, std::memory_order_relaxed); }
  // The new value: so that a bound can be taken with the place under it.
  std::int64_t add(std::int64_t amount) noexcept {
    return value_.fetch_add(amount, std::memory_order_relaxed) + amount;
  }
  std::int64_t value() const noexcept { return value_.load(std::memory_order_relaxed); }

 private:
  alignas(64) std::atomic<std::int64_t> value_{0};
};

class histogram {
 public:
  static constexpr std::size_t edges_max = 20;
  template <std::size_t N>
  explicit histogram(const std::array<double, N>& edges) noexcept
      : edges_(edges.data()), count_(N) {
    static_assert(N < edges_max);
  }
  void observe(double value) noexcept {
    std::size_t bucket = 0;
    while (bucket < count_ && value > edges_[bucket]) ++bucket;
    buckets_[bucket].fetch_add(1, std::memory_order_relaxed);
    double sum = sum_.load(std::memory_order_relaxed);
    while (!sum_.compare_exchange_weak(sum, sum + value, std::memory_order_relaxed)) {
    }
  }
  std::size_t edge_count() const noexcept { return count_; }
  double edge(std::size_t i) const noexcept { return edges_[i]; }
  std::uint64_t bucket(std::size_t i) const noexcept {
    return buckets_[i].load(std::memory_order_relaxed);
  }
  double sum() const noexcept { return sum_.load(std::memory_order_relaxed); }

 private:
  const double* edges_;
  std::size_t count_;
  std::array<std::atomic<std::uint64_t>, edges_max> buckets_{};
  std::atomic<double> sum_{0};
};

struct counters {
#define X(member, ...) counter member;
  FORETOKEN_COUNTERS(X)
#undef X
#define X(member, ...) gauge member;
  FORETOKEN_GAUGES(X)
#undef X
#define X(member, name, help, edges) histogram member{edges};
  FORETOKEN_HISTOGRAMS(X)
#undef X
};

}  // namespace foretoken
