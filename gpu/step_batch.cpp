// SPDX-License-Identifier: Apache-2.0
// The beginning of a step: the batch checked, put into its bucket, copied to the device.
#include <algorithm>

#include "base/assert.hpp"
#include "gpu/step.hpp"
#include "model/adjustments.hpp"
#include "model/batch_check.hpp"

namespace foretoken::gpu {
namespace {

error broken(std::string field, std::string message) {
  return {errc::internal, std::move(message), std::move(field)};
}

std::size_t size_of(int n) {
  return static_cast<std::size_t>(n);
}

bool draws(const model::sampling_parameters& p) {
  return p.temperature > 0 || model::adjusts(p);
}

}  // namespace

status step::check(const model::micro_batch& batch) const {
  FORETOKEN_TRY(model::check_batch(*this, batch));
  // The tables' part of the inputs has room for a copy a row.
  if (batch.copies.size() > size_of(rows_max())) return broken("micro_batch.copies", "too many");
  return {};
}

// What the device has no kernel for.
bool step::on_host(const model::slice& owner) const noexcept {
  return probe_ != nullptr || owner.sampling->logprobs > digest_top ||
         shape().vocabulary > draw_vocabulary;
}

void step::collect_tasks(const model::micro_batch& batch) {
  tasks_.clear();
  int row = 0;
  for (std::size_t s = 0; s < batch.slices.size(); ++s) {
    const model::slice& owner = batch.slices[s];
    int scores = 0;
    for (std::size_t i = 0; i < owner.tokens.size(); ++i, ++row) {
      const bool last = i + 1 == owner.tokens.size();
      head_task task{row, static_cast<int>(s), -1, scores, last && owner.sample_last, false};
      if (owner.score_all) task.target = last ? owner.score_next : owner.tokens[i + 1];
      if (task.target < 0 && !task.sample) continue;
      if (task.target >= 0) ++scores;
      task.on_host = task.target >= 0 || on_host(owner);
      tasks_.push_back(task);
    }
  }
  row_count_ = row;
}

int step::table_stride() const noexcept {
  return attention_spans(bucket_.positions) * attention_span / page_tokens;
}

// Of the tiles of attention: large ones where they are faster.
int step::columns_for(const model::micro_batch& batch) {
  if (on_lanes() || usual_ != nullptr) return query_columns;
  runs_.clear();
  for (const model::slice& one : batch.slices) {
    runs_.push_back({one.position, static_cast<int>(one.tokens.size())});
  }
  return choose_columns(on_, attention_shape(), runs_);
}

step_bucket step::bucket_for(const model::micro_batch& batch) const {
  int end = 1;
  for (const model::slice& one : batch.slices) {
    end = std::max(end, one.position + static_cast<int>(one.tokens.size()));
  }
  int top = 0;  // as long as nobody needs a row of logits or their sum
  bool drawn = false;
  for (const head_task& task : tasks_) {
    const auto& owner = batch.slices[size_of(task.slice)];
    // A slice that is only scored has no sampling; its logits go to the host.
    const int wanted = task.on_host ? 1 : owner.sampling->logprobs;
    if (wanted >= 0) top = std::max({top, wanted, 1});
    drawn |= !task.on_host && draws(*owner.sampling);
  }
  const int tasks = split_ ? 0 : static_cast<int>(tasks_.size());
  const int positions = class_of(end, shape().context);
  if (on_lanes()) return {row_count_, positions, tasks, top_class(top), drawn};
  return {bucket_of(std::max(row_count_, 1), sizes_.rows), positions,
          head_bucket_of(tasks, sizes_.head_rows, sizes_.rows), top_class(top), drawn};
}

// `usual_` instead of the batch, of nobody, that comes with it.
void step::choose_bucket(const model::micro_batch& batch) {
  const auto for_host = [&](const head_task& task) {  // the device may leave it a row that it draws
    return task.on_host || draws(*batch.slices[size_of(task.slice)].sampling);
  };
  split_ =
      static_cast<int>(tasks_.size()) > sizes_.head_rows && std::ranges::any_of(tasks_, for_host);
  dealt_ = deal(batch);
  bucket_ = usual_ != nullptr ? *usual_ : bucket_for(batch);
  columns_ = columns_for(batch);
  mode_ = mode::direct;
  if (on_lanes()) return;
  // Steps with large tiles take milliseconds, and hardly two are alike.
  if (!chosen_.graphs || large_tiles()) return;
  if (recordings_.contains(recorded_as())) {
    mode_ = mode::replaying;
  } else if (recordings_.size() < recordings_max_) {
    mode_ = mode::recording;
  }
}

step_bucket step::recorded_as() const noexcept {
  return split_ ? without_head(bucket_) : bucket_;
}

step::inputs step::inputs_at(std::byte* base) const noexcept {
  inputs out;
  std::size_t used = 0;
  const auto piece = [&]<class T>(T*& to, std::size_t count) {
    to = reinterpret_cast<T*>(base + used);
    used += (count * sizeof(T) + 15) / 16 * 16;
  };
  const std::size_t rows = size_of(bucket_.rows);
  piece(out.number, 1);
  piece(out.token, rows);
  piece(out.position, rows);
  piece(out.table, rows);
  piece(out.tiles, rows);
  piece(out.which, std::max(rows, size_of(bucket_.head_rows)));
  piece(out.pages, (rows + 1) * size_of(table_stride()));  // a slice has a row at least
  out.bytes = used;
  piece(out.copies, 2 * batch_->copies.size());
  return out;
}

// The tiles of rows that follow each other.
void step::fill_tiles(int row, int count, int& tile) {
  const int tile_rows = attention_tile_rows(shape().heads, shape().kv_heads, columns_);
  for (int i = 0; i < count; i += tile_rows) {
    host_.tiles[tile++] = {row + i, std::min(tile_rows, count - i)};
  }
}

// The rows, tiles and page table of one slice; the number of its rows.
int step::fill_slice(const model::slice& one, int table, int row, int& tile) {
  const int count = static_cast<int>(one.tokens.size());
  for (int i = 0; i < count; ++i) {
    host_.token[row + i] = one.tokens[size_of(i)];
    host_.position[row + i] = one.position + i;
    host_.table[row + i] = table;
  }
  fill_tiles(row, count, tile);
  std::int32_t* pages = host_.pages + size_of(table) * size_of(table_stride());
  const int used = (one.position + count + page_tokens - 1) / page_tokens;
  for (int i = 0; i < used; ++i) pages[i] = static_cast<std::int32_t>(one.pages[size_of(i)]);
  std::fill(pages + used, pages + table_stride(), sizes_.pages);
  return count;
}

// Rows from `row` on: position 0 of a page that no sequence has.
void step::fill_padding(int row, int& tile) {
  if (large_tiles()) fill_tiles(row, bucket_.rows - row, tile);
  for (; row < bucket_.rows; ++row) {
    host_.token[row] = host_.position[row] = host_.table[row] = 0;
    if (!large_tiles()) host_.tiles[tile++] = {row, 1};
  }
  tile_count_ = large_tiles() ? tile : bucket_.rows;
  for (; tile < bucket_.rows; ++tile) host_.tiles[tile] = {0, 0};
  if (large_tiles()) order_tiles({host_.tiles, size_of(tile_count_)}, host_.position);
}

void step::fill(const model::micro_batch& batch) {
  device_ = inputs_at(device_inputs_);
  host_ = inputs_at(host_inputs_);
  *host_.number = static_cast<std::uint32_t>(steps_);
  std::fill(host_.pages, host_.pages + table_stride(), sizes_.pages);
  int row = 0;
  int tile = 0;
  int table = 1;
  for (const model::slice& one : batch.slices) row += fill_slice(one, table++, row, tile);
  fill_padding(row, tile);
  const int places = std::max(bucket_.rows, bucket_.head_rows);
  for (int i = 0; i < places; ++i) {
    host_.which[i] = i < static_cast<int>(tasks_.size()) ? tasks_[size_of(i)].row : 0;
  }
  std::int32_t* pair = host_.copies;
  for (const model::page_copy& copy : batch.copies) {
    *pair++ = static_cast<std::int32_t>(copy.from);
    *pair++ = static_cast<std::int32_t>(copy.to);
  }
}

// Copies are independent within one launch: a page that an earlier copy wrote starts another.
status step::queue_copies(const model::micro_batch& batch) {
  const auto& all = batch.copies;
  if (all.empty()) return {};
  FORETOKEN_TRY(
      stream_.upload(device_.copies, host_.copies, 2 * all.size() * sizeof *host_.copies));
  for (std::size_t first = 0; first < all.size();) {
    std::size_t end = first + 1;
    const auto touches = [&](const model::page_copy& next) {
      return std::any_of(all.begin() + static_cast<std::ptrdiff_t>(first),
                         all.begin() + static_cast<std::ptrdiff_t>(end), [&](const auto& earlier) {
                           return earlier.to == next.from || earlier.to == next.to ||
                                  earlier.from == next.to;
                         });
    };
    while (end < all.size() && !touches(all[end])) ++end;
    page_copy_arguments given;
    given.pool = pool_;
    given.layers = shape().layers;
    given.pairs = device_.copies + 2 * first;
    given.count = static_cast<int>(end - first);
    launch_context on = on_;
    on.dependent = false;
    FORETOKEN_TRY(launch_page_copies(on, given));
    first = end;
  }
  return {};
}

status step::begin(const model::micro_batch& batch) {
  if (runtime::lost()) return error{errc::device, "the device is lost"};
  begun_ = std::chrono::steady_clock::now();
  FORETOKEN_TRY(check(batch));
  if (++steps_ == fail_at_step_) return runtime::lose("lost by gpu.fail_at_step");
  batch_ = &batch;
  collect_tasks(batch);
  choose_bucket(batch);
  fill(batch);
  queued_ = queue_copies(batch);
  pending_.clear();
  on_.dependent = false;  // the first kernel waits for the whole of what came before
  const take_inputs_arguments given{host_inputs_, device_inputs_, host_.bytes};
  queue([this, given] { return launch_take_inputs(on_, given); });
  if (on_lanes()) mode_ = mode::lanes;
  return queued_ ? status() : failed(queued_.error());
}

}  // namespace foretoken::gpu
