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
constexpr int prompt_tokens = 32;
constexpr std::size_t usual_max = 64;

}  // namespace

step_bucket without_head(const step_bucket& of) {
  return {of.rows, of.positions, 0, 0, true};
}

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

std::vector<step_bucket> usual_buckets(int rows_max, int head_rows, int context, bool decodes) {
  struct choice {
    int top;
    bool draws;
  };
  constexpr choice best{0, false}, drawn{0, true}, alternatives{12, false};
  std::vector<step_bucket> out;
  const auto add = [&](int rows, int tasks, int positions, choice how) {
    if (how.draws && tasks > head_rows) return;  // their head is no part of the recorded step
    const step_bucket one{bucket_of(rows, rows_max), class_of(positions, context),
                          head_bucket_of(tasks, head_rows, rows_max), how.top, how.draws};
    const bool known = std::ranges::find(out, one) != out.end();
    if (!known && out.size() < usual_max) out.push_back(one);
  };
  const auto add_prompts = [&](int from, int to) {
    for (int n = from; n <= to && n * prompt_tokens <= rows_max; ++n) {
      for (const choice how : {alternatives, best, drawn}) {
        add(n * prompt_tokens, n, prompt_tokens, how);
      }
    }
  };
  add_prompts(1, 8);
  for (const int n : bucket_rows) {
    if (!decodes || n > std::min(rows_max, 32)) break;
    for (const int positions : {attention_chunk, attention_span}) {
      for (const choice how : {best, drawn}) add(n, n, positions, how);
    }
  }
  add_prompts(9, rows_max);
  return out;
}

}  // namespace foretoken::gpu
