// SPDX-License-Identifier: Apache-2.0
#include "model/batch_check.hpp"

#include <string>
#include <utility>

namespace foretoken::model {
namespace {

error broken(std::string field, std::string message) {
  return {errc::internal, std::move(message), std::move(field)};
}

status check_slice(const ops& device, const slice& one) {
  const auto tokens = static_cast<std::int64_t>(one.tokens.size());
  const std::int64_t end = one.position + tokens;
  if (tokens < 1 || one.position < 0 || end > device.shape().context) {
    return broken("slice.tokens", "positions outside of the model's context");
  }
  if (static_cast<std::int64_t>(one.pages.size()) * page_tokens < end) {
    return broken("slice.pages", "the pages do not cover the positions");
  }
  for (const page_id page : one.pages) {
    if (static_cast<int>(page) < 0 || static_cast<int>(page) >= device.pages()) {
      return broken("slice.pages", "no such page");
    }
  }
  for (const token id : one.tokens) {
    if (id < 0 || id >= device.shape().vocabulary) return broken("slice.tokens", "no such token");
  }
  if (one.score_next >= device.shape().vocabulary)
    return broken("slice.score_next", "no such token");
  if (one.sample_last && !one.sampling) return broken("slice.sampling", "missing");
  return {};
}

}  // namespace

status check_batch(const ops& device, const micro_batch& batch) {
  std::size_t total = 0;
  for (const slice& one : batch.slices) {
    FORETOKEN_TRY(check_slice(device, one));
    total += one.tokens.size();
  }
  if (total > static_cast<std::size_t>(device.rows_max())) {
    return broken("micro_batch", "more rows than rows_max");
  }
  for (const page_copy& copy : batch.copies) {
    const bool known = static_cast<int>(copy.from) >= 0 &&
                       static_cast<int>(copy.from) < device.pages() &&
                       static_cast<int>(copy.to) >= 0 && static_cast<int>(copy.to) < device.pages();
    if (!known || copy.positions < 0 || copy.positions > page_tokens) {
      return broken("micro_batch.copies", "no such page or position");
    }
  }
  return {};
}

}  // namespace foretoken::model
