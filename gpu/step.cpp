// SPDX-License-Identifier: Apache-2.0
// What a step owns, and its launches in the order of the forward pass.
#include "gpu/step.hpp"

#include <algorithm>
#include <utility>

#include "base/counters.hpp"
#include "model/forward.hpp"

namespace foretoken::gpu {

step::step(std::shared_ptr<const weights> from, const options& chosen, int most_rows)
    : weights_(std::move(from)),
      chosen_(chosen),
      sizes_(weights_->padded, chosen, most_rows),
      fail_at_step_(chosen.fail_at_step) {}

step::~step() {
  if (left_) static_cast<void>(stream_.wait());  // it writes into memory that is given back
}

result<std::unique_ptr<model::ops>> step::beside() {
  std::unique_ptr<step> out(new step(weights_, chosen_, beside_rows(chosen_)));
  out->pool_ = pool_;
  out->recordings_max_ = recordings_beside;
  FORETOKEN_TRY(out->take());
  FORETOKEN_TRY(out->record_usual());
  return std::unique_ptr<model::ops>(std::move(out));
}

result<std::unique_ptr<step>> step::make(std::shared_ptr<const weights> from,
                                         const options& chosen) {
  FORETOKEN_TRY(runtime::use_device(from->ordinal));
  std::unique_ptr<step> out(new step(std::move(from), chosen, chosen.rows_max));
  FORETOKEN_TRY(out->take());
  return out;
}

status step::take_pool() {
  if (pool_.base != nullptr) return {};
  const model::hyperparameters& padded = weights_->padded;
  const std::uint64_t bytes =
      (static_cast<std::uint64_t>(sizes_.pages) + 1) * kv_page_bytes(padded, chosen_.kv);
  auto pool = runtime::buffer::take(runtime::place::device, bytes);
  if (!pool) return std::move(pool).error();
  pool_memory_ = *std::move(pool);
  pool_ = {reinterpret_cast<std::uint16_t*>(pool_memory_.data()), sizes_.pages + 1, padded.kv_heads,
           padded.head_dim, chosen_.kv};
  return {};
}

status step::take() {
  const model::hyperparameters& padded = weights_->padded;
  auto queue = runtime::stream::make();
  if (!queue) return std::move(queue).error();
  stream_ = *std::move(queue);
  on_ = {.stream = stream_.handle(),
         .multiprocessors = runtime::multiprocessors(weights_->ordinal),
         .shared_bytes_max = runtime::shared_bytes_max(weights_->ordinal),
         .dependent = false,
         .wide_mma = runtime::wide_mma(weights_->ordinal)};

  const workspace_layout layout = lay_out(padded, sizes_);
  FORETOKEN_TRY(take_pool());
  auto space = runtime::buffer::take(runtime::place::device, layout.bytes);
  if (!space) return std::move(space).error();
  work_memory_ = *std::move(space);
  auto pinned = runtime::buffer::take(runtime::place::pinned, pinned_layout(sizes_).bytes);
  if (!pinned) return std::move(pinned).error();
  pinned_memory_ = *std::move(pinned);

  std::size_t next = 0;
  const auto piece = [&]<class T>(T*& to) {
    to = reinterpret_cast<T*>(work_memory_.data() + layout.offsets[next++]);
  };
  piece(work_.x);
  piece(work_.normed);
  piece(work_.squares);
  piece(work_.q);
  piece(work_.attended);
  piece(work_.hidden);
  piece(work_.raw);
  piece(work_.partial);
  logits_ = work_.partial;
  piece(work_.arrived);
  piece(scratch_);
  piece(device_inputs_);
  piece(work_.kv_saturated);

  const pinned_pieces at = pinned_layout(sizes_);
  host_inputs_ = pinned_memory_.data();
  digests_ = reinterpret_cast<logits_digest*>(pinned_memory_.data() + at.digests);
  requests_ = reinterpret_cast<draw_request*>(pinned_memory_.data() + at.requests);
  drawn_ = reinterpret_cast<drawn_token*>(pinned_memory_.data() + at.drawn);
  host_logits_ = reinterpret_cast<float*>(pinned_memory_.data() + at.logits);
  saturated_seen_ = reinterpret_cast<std::uint32_t*>(pinned_memory_.data() + at.saturated);
  *saturated_seen_ = 0;
  done_ = reinterpret_cast<std::uint32_t*>(pinned_memory_.data() + at.done);
  *done_ = 0;
  tasks_.reserve(static_cast<std::size_t>(sizes_.rows));
  runs_.reserve(static_cast<std::size_t>(sizes_.rows));
  return {};
}

status step::record_usual() {
  if (!chosen_.graphs) return {};
  const auto end = std::chrono::steady_clock::now() + chosen_.record_at_start / chosen_.flights;
  const bool decodes = !weights_->clusters;  // else clusters run them, which are not recorded
  const model::micro_batch nobody;
  for (const step_bucket& each :
       usual_buckets(sizes_.rows, sizes_.head_rows, shape().context, decodes)) {
    const bool full = recordings_.size() >= recordings_max_;
    if (full || std::chrono::steady_clock::now() >= end) break;
    usual_ = &each;
    if (fail_at_step_ > 0) ++fail_at_step_;  // it is no step of anybody's
    const auto done = model::forward(*this, nobody);
    usual_ = nullptr;
    if (done) continue;
    if (done.error().code == errc::exhausted) break;  // they may never come
    return done.error();
  }
  return {};
}

void step::probe_logits(logits_probe probe, void* context) noexcept {
  probe_ = probe;
  probe_context_ = context;
}

step_rows step::rows() const noexcept {
  return {device_.token, device_.position, device_.table,
          device_.pages, table_stride(),   bucket_.rows};
}

void step::embed() {
  embed_arguments given;
  given.rows = rows();
  given.table = weights_->embedding;
  given.positions = weights_->positions;
  given.scale = shape().embedding_scale;
  given.work = work_;
  given.next_norm = weights_->layers.front().attention_norm;
  queue([this, given] { return launch_embed(on_, given); });
}

void step::attention_input(int layer) {
  const layer_weights& from = weights_->layers[static_cast<std::size_t>(layer)];
  const model::hyperparameters& padded = weights_->padded;
  const int rope = padded.attention[static_cast<std::size_t>(layer)].rope;
  attention_input_arguments given;
  given.rows = rows();
  given.work = work_;
  given.norm = from.attention_norm;
  given.qkv = from.qkv;
  given.heads = padded.heads;
  given.kv_heads = padded.kv_heads;
  given.head_dim = padded.head_dim;
  if (rope >= 0) {
    const rope_table& table = weights_->ropes[static_cast<std::size_t>(rope)];
    given.angles = table.angles;
    given.pairs = table.pairs;
  }
  given.rope_neighbours = padded.rope_neighbours;
  given.q_norm = from.q_norm;
  given.k_norm = from.k_norm;
  given.head_norm_epsilon = padded.norm_epsilon;
  given.query_scale = padded.query_scale;
  given.kv = pool_.base + static_cast<std::size_t>(layer) * pool_.layer_values();
  given.form = pool_.form;
  queue([this, given] { return launch_attention_input(on_, given); });
}

// Without what differs from layer to layer, but the shortest window.
attention_arguments step::attention_shape() const {
  const model::hyperparameters& padded = weights_->padded;
  attention_arguments out;
  out.rows = rows();
  out.work = work_;
  out.spans_max = attention_spans(bucket_.positions);
  out.positions_max = bucket_.positions;
  out.heads = padded.heads;
  out.kv_heads = padded.kv_heads;
  out.head_dim = padded.head_dim;
  for (const auto& each : padded.attention) {
    if (each.window > 0)
      out.window = std::min(out.window > 0 ? out.window : each.window, each.window);
  }
  out.softcap = padded.attention_softcap;
  out.form = pool_.form;
  return out;
}

void step::attention(int layer) {
  attention_arguments given = attention_shape();
  given.window = weights_->padded.attention[static_cast<std::size_t>(layer)].window;
  given.kv = pool_.base + static_cast<std::size_t>(layer) * pool_.layer_values();
  given.columns = columns_;
  // Large tiles leave no spans in memory.
  const int at_once = large_tiles() ? tile_count_ : sizes_.tiles_at_once(given.spans_max);
  for (int first = 0; first < tile_count_; first += at_once) {
    given.tiles = device_.tiles + first;
    given.tile_count = std::min(at_once, tile_count_ - first);
    queue([this, given] { return launch_attention(on_, given); });
  }
}

void step::attention_output(int layer) {
  const layer_weights& from = weights_->layers[static_cast<std::size_t>(layer)];
  const residual_arguments given{
      bucket_.rows, work_, from.o, shape().width, from.attention_post_norm, from.ffn_norm};
  queue([this, given] { return launch_attention_output(on_, given); });
}

void step::ffn_input(int layer) {
  const layer_weights& from = weights_->layers[static_cast<std::size_t>(layer)];
  const ffn_input_arguments given{bucket_.rows,         work_,
                                  from.ffn_norm,        from.gate_up,
                                  weights_->padded.ffn, weights_->padded.activation};
  queue([this, given] { return launch_ffn_input(on_, given); });
}

void step::ffn_output(int layer) {
  const layer_weights& from = weights_->layers[static_cast<std::size_t>(layer)];
  const auto next = static_cast<std::size_t>(layer) + 1;
  const residual_arguments given{bucket_.rows,
                                 work_,
                                 from.down,
                                 shape().width,
                                 from.ffn_post_norm,
                                 next < weights_->layers.size()
                                     ? weights_->layers[next].attention_norm
                                     : weights_->final_norm};
  queue([this, given] { return launch_ffn_output(on_, given); });
}

}  // namespace foretoken::gpu
