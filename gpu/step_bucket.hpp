// SPDX-License-Identifier: Apache-2.0
#pragma once
// The sizes that steps are padded to: steps of one bucket are recorded once.

#include <compare>
#include <vector>

namespace foretoken::gpu {

// What a recorded step depends on besides the content of its arrays.
struct step_bucket {
  int rows = 0, positions = 0, head_rows = 0, top = 0;
  bool draws = false;  // a row is sampled or adjusted: tokens are drawn, not the digest's best
  auto operator<=>(const step_bucket&) const = default;
};

// What a step is recorded as whose head is no part of the recording: the same whatever its rows
// want of the head, and unlike a step without rows of the head, which tells the host its end.
step_bucket without_head(const step_bucket& of);

// The least of the sizes that hold `rows`, at most `most`.
int bucket_of(int rows, int most);
// The same for rows of the head: as many logits at once as there is memory for, if they are enough.
int head_bucket_of(int rows, int head_rows, int most);
// Classes of sequence length in positions: one chunk of attention, then 1, 2, 4, ... spans up to
// the context.
int class_of(int positions, int context);
// Entries of a digest: the best alone, without the sum of all; with it; ten alternatives; all.
int top_class(int entries);

// The buckets to be expected of steps of up to rows_max rows, the likeliest first: one to eight
// prompts of 32 tokens, with ten alternatives, the best token alone or a drawn one; where
// `decodes`, one token each of up to 32 sequences of up to 64 and 256 positions, the best or drawn;
// more prompts. At most 64: each takes device memory.
std::vector<step_bucket> usual_buckets(int rows_max, int head_rows, int context, bool decodes);

}  // namespace foretoken::gpu
