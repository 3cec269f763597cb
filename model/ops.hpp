// SPDX-License-Identifier: Apache-2.0
#pragma once
// The contract between the forward pass (model/forward.cpp, written once) and a device (cpu/,
// gpu/).
//
// A step works on ROWS: the tokens of all slices of a micro-batch one after the other. begin()
// fixes the rows; then forward() calls the fused operations in order. Activations stay inside the
// device. The bits of a row depend on its own sequence only: never on the other rows, the chunking,
// the thread count or where its pages came from.
//
// One object serves one executor; one thread calls it. Weights are shared between objects.
//
// A device may run several steps beside each other: beside() then gives further objects over the
// same pages, each for one step at a time. Their steps hold different sequences.

#include <cstdint>
#include <memory>
#include <vector>

#include "base/result.hpp"
#include "model/hyperparameters.hpp"
#include "model/micro_batch.hpp"

namespace foretoken::model {

class ops {
 public:
  virtual ~ops() = default;
  virtual const hyperparameters& shape() const noexcept = 0;
  virtual int rows_max() const noexcept = 0;  // most rows of one step
  virtual int pages() const noexcept = 0;     // size of the KV pool

  // REQUIRES rows in all <= rows_max(), page ids in [0, pages()). Copies pages first.
  // `batch` must live until finish() returned.
  virtual status begin(const micro_batch& batch) = 0;
  // x = embedding[token] * scale (+ positions)
  virtual void embed() = 0;
  // q, k, v = W norm(x) + b; per-head norms; rope; k and v appended to the pages, by attention() at
  // the latest
  virtual void attention_input(int layer) = 0;
  // softmax(scale * q k) v over the pages, window and soft cap as the layer says
  virtual void attention(int layer) = 0;
  // x += post_norm(W_o a + b)
  virtual void attention_output(int layer) = 0;
  // h = activation(W_gate norm(x)) * (W_up norm(x)), or activation(W_up norm(x) + b)
  virtual void ffn_input(int layer) = 0;
  // x += post_norm(W_down h + b)
  virtual void ffn_output(int layer) = 0;
  // logits = softcap(W_head norm(x)) of the rows that want them, then sampling and scoring. What
  // the device has not done when it returns is left to finish(), with the same `out`.
  virtual status head(step_result& out) = 0;
  virtual bool done() { return true; }  // finish() would not wait
  virtual status finish(step_result&) { return {}; }

  // Objects for as many steps at once, this one among them.
  virtual int flights() const noexcept { return 1; }
  // Another one, which must not outlive this and may take fewer rows. REQUIRES flights() > 1.
  // Errors: exhausted, device.
  virtual result<std::unique_ptr<ops>> beside() {
    return error{errc::unsupported, "one step at a time"};
  }
};

}  // namespace foretoken::model
