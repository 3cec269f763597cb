// SPDX-License-Identifier: Apache-2.0
// Decode steps on clusters: one row of each sequence, dealt over lanes of a launch. The general
// path gives the same bits, so which of them runs a step may depend on what else is in it.
#include <array>

#include "gpu/step.hpp"

namespace foretoken::gpu {
namespace {

std::size_t size_of(int n) {
  return static_cast<std::size_t>(n);
}

}  // namespace

// The head of the step itself gives logits of all rows, into the one block there is for them.
// With few rows the general path's head, the same bits, is the faster, and with any number where
// the best ids are all that is wanted.
bool step::own_head() const noexcept {
  return wants_logits() && weights_->clusters->view.head != nullptr &&
         row_count_ > cluster::general_head_rows && row_count_ <= sizes_.head_rows &&
         row_count_ == bucket_.head_rows;
}

// Whether every lane of a launch has room for its rows' contexts.
bool step::lanes_hold(const model::micro_batch& batch, row_range launch, int lanes) const {
  const int most = (launch.count() + lanes - 1) / lanes;
  const cluster::limits limits = cluster::limits_of(weights_->clusters->shape, most);
  for (int l = 0; l < lanes; ++l) {
    const row_range own = part_of(launch, l, lanes);
    std::array<std::int32_t, cluster::lane_rows_most> positions;
    for (int r = own.first; r < own.end; ++r) {
      positions[size_of(r - own.first)] = batch.slices[size_of(r)].position;
    }
    if (!cluster::lane_fits(limits, {positions.data(), size_of(own.count())})) return false;
  }
  return true;
}

// How the rows of a step of one token a sequence are dealt: in one launch less by fuller lanes
// where their contexts are short enough, else by lanes of few rows, else none takes them.
lane_deal step::deal(const model::micro_batch& batch) const {
  const int rows = static_cast<int>(batch.slices.size());
  if (!weights_->clusters || rows == 0 || rows != row_count_) return {};
  return deal_rows(rows, weights_->clusters->lanes, cluster::lane_rows_few, cluster::lane_rows_most,
                   [&](row_range launch, int lanes) { return lanes_hold(batch, launch, lanes); });
}

void step::fill_lane(cluster::lane_rows& to, row_range own) const {
  to.rows = own.count();
  to.first = own.first;
  for (int r = 0; r < to.rows; ++r) {
    to.token[r] = host_.token[own.first + r];
    to.position[r] = host_.position[own.first + r];
    to.table[r] = host_.table[own.first + r];
  }
  if (own_head()) to.logits = logits_ + size_of(own.first) * size_of(sizes_.logits);
}

// The whole step up to the logits or the input of the head, row i of the batch in row i of them.
void step::queue_lanes() {
  const cluster_weights& from = *weights_->clusters;
  for (int i = 0; i < dealt_.launches(); ++i) {
    const row_range here = dealt_.launch(i);
    cluster::step_arguments given;
    given.model = from.view;
    given.kv = pool_.base;
    given.pages = pool_.pages;
    given.page_tables = device_.pages;
    given.table_stride = table_stride();
    given.clamped = work_.kv_saturated;
    if (!own_head()) {
      given.normed = work_.normed;
      given.normed_stride = padded_columns(shape().width);
      given.squares = work_.squares;
    }
    given.lanes = dealt_.lanes_of(here);
    for (int l = 0; l < given.lanes; ++l) fill_lane(given.lane[l], part_of(here, l, given.lanes));
    queue([this, given]() mutable {
      given.dependent = on_.dependent;
      return cluster::launch(weights_->clusters->shape, given, on_.stream);
    });
  }
}

}  // namespace foretoken::gpu
