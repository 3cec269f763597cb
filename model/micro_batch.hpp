// SPDX-License-Identifier: Apache-2.0
#pragma once
// One forward step: which sequences advance, by which tokens, and what is wanted of them.

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/ids.hpp"
#include "model/sampling.hpp"

namespace foretoken::model {

// What the head must do with the row of one token.
enum class want : std::uint8_t { nothing, sample, score };

// One sequence's part of a micro-batch. Positions [position, position + tokens.size()) are computed
// and their keys and values written to the pages; everything before `position` is already in the
// pages.
struct slice {
  sequence_id sequence{};
  int position = 0;
  std::vector<token> tokens;   // >= 1; one in decode, a chunk in prefill
  std::vector<page_id> pages;  // cover [0, position + tokens.size()), page i = positions 16i..
  bool sample_last = false;    // sample from the last token's logits
  // echo with logprobs: score the token that follows each of these; the token after the last one of
  // the slice is `score_next` (-1 = do not score it).
  bool score_all = false;
  token score_next = -1;
  std::shared_ptr<const sampling_parameters> sampling;
  std::shared_ptr<const std::vector<token>> prompt;  // for penalties; null when none is set
  std::vector<token> generated;                      // for penalties; empty when none is set
  std::uint64_t generated_count = 0;                 // the randomness position
};

inline std::span<const token> prompt_of(const slice& one) {
  return one.prompt ? std::span<const token>(*one.prompt) : std::span<const token>();
}

// Copies one page's first `positions` positions in every layer, before the step (copy on write).
struct page_copy {
  page_id from{}, to{};
  int positions = 0;
};

struct micro_batch {
  std::uint64_t step = 0;
  int place = 0;  // of the ops objects of one device, which runs it (ops::beside)
  std::vector<page_copy> copies;
  std::vector<slice> slices;
};

inline int rows_of(const micro_batch& batch) noexcept {
  std::size_t rows = 0;
  for (const slice& one : batch.slices) rows += one.tokens.size();
  return static_cast<int>(rows);
}

struct slice_result {
  sequence_id sequence{};
  sampled next;                 // when sample_last
  std::vector<sampled> scores;  // when score_all: one a scored token, in order
};

struct step_result {
  std::uint64_t step = 0;
  std::vector<slice_result> slices;  // same order as the micro_batch
  // Of the step, before the device had any of its work; 0 where the caller's thread computes.
  std::chrono::nanoseconds handed_over{};
};

}  // namespace foretoken::model
