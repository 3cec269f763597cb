// SPDX-License-Identifier: Apache-2.0
#include "gpu/step_bucket.hpp"

#include <algorithm>
#include <array>

#include "gpu/kernels.hpp"

namespace foretoken::gpu {
namespace {

// Steps between these sizes are padded by at most half; products work on 8 rows at a time.
constexpr std::array bucket_rows{1,   2,   4,   8,   16,  24,  32,   48,   64,  96,
                                 128, 192, 256, 384, 512, 768, 1024, 1536, 2048};

}  // namespace

int bucket_of(int rows, int most) {
  const auto* at = std::lower_bound(bucket_rows.begin(), bucket_rows.end(), rows);
  return at == bucket_rows.end() ? most : std::min(*at, most);
}

int head_bucket_of(int rows, int head_rows, int most) {
  return rows == 0 ? 0 : bucket_of(rows, rows <= head_rows ? head_rows : most);
}

int class_of(int positions, int context) {
  if (positions <= attention_chunk) return attention_chunk;
  int spans = 1;
  while (spans < attention_spans(positions)) spans *= 2;
  return std::min(spans, attention_spans(std::max(context, positions))) * attention_span;
}

int top_class(int entries) {
  if (entries <= 1) return entries;
  return entries <= 12 ? 12 : digest_top;
}

}  // namespace foretoken::gpu
