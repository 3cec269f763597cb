// SPDX-License-Identifier: Apache-2.0
#pragma once
// The pages of keys and values: [page][layer][kv_head]{keys, values}, as row_kernels.hpp says,
// in int8 with the 16 positions' scales (float) behind the keys and behind the values.
// One mapping, whose memory is taken when a page is first written, 2 MiB at once where the system
// has huge pages; so a page's layers lie together. Pages are told apart by id; who owns which is
// the cache's business.

#include <cstddef>
#include <cstdint>

#include "base/ids.hpp"
#include "base/result.hpp"
#include "cpu/options.hpp"
#include "model/hyperparameters.hpp"

namespace foretoken::cpu {

struct kv_layout {
  int layers = 0;
  int kv_heads = 0;
  int head_dim = 0;
  kv_type type = kv_type::f16;  // never automatic

  // `path` is never automatic. What automatic means: f32 for float32; bf16 in fast where the
  // processor multiplies pairs of them; else f16.
  kv_layout(const model::hyperparameters& shape,
            numerics precision,
            isa path,
            kv_type wanted) noexcept;
  std::size_t head_bytes() const noexcept;
  std::size_t layer_page_bytes() const noexcept;
  std::uint64_t page_bytes() const noexcept;  // of all layers
  int pages_in(std::uint64_t bytes) const noexcept;
};

class kv_pool {
 public:
  // Error: exhausted, field "cache.kv_bytes".
  static result<kv_pool> take(const kv_layout& layout, std::uint64_t bytes);
  kv_pool(kv_pool&& other) noexcept;
  kv_pool& operator=(kv_pool&&) = delete;
  ~kv_pool();

  int pages() const noexcept { return pages_; }
  const kv_layout& layout() const noexcept { return layout_; }
  // Bytes from one page to the next.
  std::size_t page_stride() const noexcept { return layout_.page_bytes(); }
  // Keys of a layer and head in page 0.
  std::byte* head_base(int layer, int head) const noexcept;
  // The first `positions` positions, in every layer and head. REQUIRES two different pages.
  void copy_page(page_id from, page_id to, int positions) const noexcept;

 private:
  kv_pool(const kv_layout& layout, int pages, std::byte* bytes) noexcept;
  kv_layout layout_;
  int pages_;
  std::byte* bytes_;
};

}  // namespace foretoken::cpu
