// SPDX-License-Identifier: Apache-2.0
#pragma once
// The fused operations of one executor on one device. All memory is taken at the start.
//
// A step is padded to a bucket of rows and to a class of sequence length, so that steps of the same
// bucket and class differ in the content of device arrays only and can be recorded once and
// replayed. Rows that pad write page pages() of the pool, which no sequence has. Decode steps of
// models that have weights for it run on clusters instead: same bits, one launch.

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "gpu/attention_tiles.hpp"
#include "gpu/lanes.hpp"
#include "gpu/memory.hpp"
#include "gpu/step_bucket.hpp"
#include "gpu/weights.hpp"
#include "model/ops.hpp"

namespace foretoken::gpu {

class step final : public model::ops {
 public:
  // On the thread that will call the others. Errors: exhausted, device.
  static result<std::unique_ptr<step>> make(std::shared_ptr<const weights> from,
                                            const options& chosen);
  ~step() override;

  const model::hyperparameters& shape() const noexcept override { return weights_->shape; }
  int rows_max() const noexcept override { return sizes_.rows; }
  int pages() const noexcept override { return sizes_.pages; }
  status begin(const model::micro_batch& batch) override;
  void embed() override;
  void attention_input(int layer) override;
  void attention(int layer) override;
  void attention_output(int layer) override;
  void ffn_input(int layer) override;
  void ffn_output(int layer) override;
  status head(model::step_result& out) override;
  bool done() override;
  status finish(model::step_result& out) override;
  int flights() const noexcept override { return chosen_.flights; }
  result<std::unique_ptr<model::ops>> beside() override;

  // Runs steps of the usual sizes, all rows of which pad, so that they are recorded before anybody
  // waits for them; this object's share of options::record_at_start. Others are recorded when they
  // come.
  status record_usual();

  // For tests.
  std::size_t recordings() const noexcept { return recordings_.size(); }
  // For tests: columns of the last step's large tiles of attention; 0: it had small ones.
  int large_columns() const noexcept { return large_tiles() ? columns_ : 0; }
  // For tests: sees the raw logits of every row that wanted them, in row order.
  using logits_probe = void (*)(void* context, int row, std::span<const float> logits);
  void probe_logits(logits_probe probe, void* context) noexcept;

 private:
  struct head_task {
    int row = 0;
    int slice = 0;
    token target = -1;    // to be scored, or -1
    int score_index = 0;  // its place among the slice's scores
    bool sample = false;
    bool on_host = false;  // needs its row of logits there
  };
  // One step's inputs, in pinned or in device memory: packed for the bucket; the device fetches
  // them at the start of the recorded step. Page copies come before it.
  struct inputs {
    std::uint32_t* number = nullptr;   // [1] of the step, announced at its end
    std::int32_t* token = nullptr;     // [bucket rows]
    std::int32_t* position = nullptr;  // [bucket rows]
    std::int32_t* table = nullptr;     // [bucket rows]
    attention_tile* tiles = nullptr;   // [bucket rows]
    std::int32_t* which = nullptr;     // [bucket rows]
    std::int32_t* pages = nullptr;     // [bucket rows + 1][stride]
    std::size_t bytes = 0;             // of all above
    std::int32_t* copies = nullptr;    // [copies][2]
  };
  // lanes: clusters run the layers, whose operations queue nothing here.
  enum class mode { direct, recording, replaying, lanes };

  step(std::shared_ptr<const weights> from, const options& chosen, int most_rows);
  status take();
  status take_pool();
  inputs inputs_at(std::byte* base) const noexcept;
  int table_stride() const noexcept;

  status check(const model::micro_batch& batch) const;
  void collect_tasks(const model::micro_batch& batch);
  bool on_host(const model::slice& owner) const noexcept;
  step_bucket bucket_for(const model::micro_batch& batch) const;
  attention_arguments attention_shape() const;
  int columns_for(const model::micro_batch& batch);
  bool large_tiles() const noexcept { return columns_ != query_columns; }
  void choose_bucket(const model::micro_batch& batch);
  step_bucket recorded_as() const noexcept;
  void fill(const model::micro_batch& batch);
  int fill_slice(const model::slice& one, int table, int row, int& tile);
  void fill_tiles(int row, int count, int& tile);
  void fill_padding(int row, int& tile);
  status queue_copies(const model::micro_batch& batch);

  // Decode steps on clusters (step_cluster.cpp).
  bool lanes_hold(const model::micro_batch& batch, row_range launch, int lanes) const;
  lane_deal deal(const model::micro_batch& batch) const;
  bool on_lanes() const noexcept { return dealt_.rows > 0; }
  bool own_head() const noexcept;
  void fill_lane(cluster::lane_rows& to, row_range own) const;
  void queue_lanes();

  // Queues a launch, and keeps it when the step is to be recorded; nothing when it is replayed
  // or lanes run it.
  template <class Launch>
  void queue(Launch&& launch);
  step_rows rows() const noexcept;
  void queue_head();
  void queue_logits(int first, int count);
  void queue_digest(int first, int count);
  draw_parameters request_of(const head_task& task, draw_request& to);
  void fill_requests(std::span<const head_task> tasks, int count);
  void queue_draw(int count);
  void queue_choice(int first, int count);
  void queue_announce();
  status finish_queue();
  bool wants_logits() const noexcept;  // not the best of each row alone
  bool looks() const noexcept;         // this step reads the counter of clamped values
  status wait_for_end();
  status run_block(int first, int count, model::step_result& out);
  void take_back(std::span<head_task> tasks) const;
  status finish_tasks(int first, int count, model::step_result& out);
  status read_logits(std::span<const head_task> tasks, model::step_result& out);
  void finish_from_choice(const head_task& task,
                          const drawn_token& token,
                          const logits_digest& from,
                          model::step_result& out) const;
  void finish_from_logits(const head_task& task,
                          std::span<const float> logits,
                          model::step_result& out) const;
  status failed(error why);

  std::shared_ptr<const weights> weights_;
  options chosen_;
  step_sizes sizes_;
  launch_context on_;
  runtime::stream stream_;
  runtime::buffer pool_memory_, work_memory_, pinned_memory_;
  kv_pool_view pool_;  // of pool_memory_, or of the step that this one is beside
  workspace work_;
  float* logits_ = nullptr;  // [head_rows][logits], where the layers have work_.partial
  void* scratch_ = nullptr;  // of the digest
  inputs device_, host_;
  std::byte* device_inputs_ = nullptr;
  std::byte* host_inputs_ = nullptr;
  logits_digest* digests_ = nullptr;         // pinned, [rows]
  draw_request* requests_ = nullptr;         // pinned, [head_rows], of a block
  drawn_token* drawn_ = nullptr;             // pinned, [head_rows], of a block
  float* host_logits_ = nullptr;             // pinned, [host_rows][logits]
  std::uint32_t* saturated_seen_ = nullptr;  // pinned
  std::uint32_t* done_ = nullptr;            // pinned: number of the last step that ended
  std::uint32_t saturated_counted_ = 0;

  const model::micro_batch* batch_ = nullptr;
  bool left_ = false;  // the device works, and finish() has to be called
  std::chrono::steady_clock::time_point begun_{};
  std::vector<head_task> tasks_;
  std::vector<model::adjustment> adjustments_;  // of one row
  std::vector<row_run> runs_;                   // of the batch's slices
  step_bucket bucket_;
  int columns_ = query_columns, tile_count_ = 0;  // of this step's attention
  const step_bucket* usual_ = nullptr;            // being recorded for those to come
  int row_count_ = 0;
  // The host may want more rows of logits than fit at once: the head is no part of the recorded
  // step and runs block by block.
  bool split_ = false;
  std::uint64_t steps_ = 0, fail_at_step_ = 0;
  mode mode_ = mode::direct;
  lane_deal dealt_;  // this step's rows; none: the general path takes them
  status queued_;    // the first launch that failed
  std::vector<std::function<status()>> pending_;
  std::map<step_bucket, runtime::recording> recordings_;
  std::size_t recordings_max_ =
      recordings_of_first;  // no more than there are once the memory is full
  logits_probe probe_ = nullptr;
  void* probe_context_ = nullptr;
};

template <class Launch>
void step::queue(Launch&& launch) {
  if (mode_ == mode::replaying || mode_ == mode::lanes || !queued_) return;
  queued_ = launch();
  on_.dependent = true;
  if (mode_ == mode::recording) pending_.emplace_back(std::forward<Launch>(launch));
}

}  // namespace foretoken::gpu
