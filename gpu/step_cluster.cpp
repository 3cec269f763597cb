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

lane_deal step::deal() const noexcept {
  const cluster_weights& from = *weights_->clusters;
  return {row_count_, from.lanes, cluster::limits_of(from.shape).rows_max};
}

// The head of the step itself gives logits of all rows, into the one block there is for them.
// With few rows the general path's head, the same bits, is the faster, and with any number where
// the best ids are all that is wanted.
bool step::own_head() const noexcept {
  return wants_logits() && weights_->clusters->view.head != nullptr &&
         row_count_ > cluster::general_head_rows && row_count_ <= sizes_.head_rows &&
         row_count_ == bucket_.head_rows;
}

// Contexts that are too long together for one cluster go the general way.
bool step::lane_holds(const model::micro_batch& batch, row_range own) const {
  std::array<std::int32_t, cluster::lane_rows_most> positions;
  for (int r = own.first; r < own.end; ++r) {
    positions[size_of(r - own.first)] = batch.slices[size_of(r)].position;
  }
  return cluster::lane_fits(cluster::limits_of(weights_->clusters->shape),
                            {positions.data(), size_of(own.count())});
}

// One token a sequence.
bool step::fits_lanes(const model::micro_batch& batch) const {
  const int rows = static_cast<int>(batch.slices.size());
  if (!weights_->clusters || rows == 0 || rows != row_count_) return false;
  const lane_deal all = deal();
  for (int i = 0; i < all.launches(); ++i) {
    const row_range here = all.launch(i);
    const int lanes = all.lanes_of(here);
    for (int l = 0; l < lanes; ++l) {
      if (!lane_holds(batch, part_of(here, l, lanes))) return false;
    }
  }
  return true;
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
  const lane_deal all = deal();
  for (int i = 0; i < all.launches(); ++i) {
    const row_range here = all.launch(i);
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
    given.lanes = all.lanes_of(here);
    for (int l = 0; l < given.lanes; ++l) fill_lane(given.lane[l], part_of(here, l, given.lanes));
    queue([this, given]() mutable {
      given.dependent = on_.dependent;
      return cluster::launch(weights_->clusters->shape, given, on_.stream);
    });
  }
}

}  // namespace foretoken::gpu
