// SPDX-License-Identifier: Apache-2.0
#include "cpu/kv_pool.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "cpu/dispatch.hpp"
#include "cpu/row_kernels.hpp"

namespace foretoken::cpu {
namespace {
std::size_t size_of(int n) noexcept {
  return static_cast<std::size_t>(n);
}

constexpr std::size_t huge_page = 2u << 20;
// Whole huge pages: the system then places the mapping where it can use them.
std::size_t mapped_bytes(const kv_layout& layout, int pages) noexcept {
  const std::size_t bytes = size_of(pages) * layout.page_bytes();
  return (bytes + huge_page - 1) / huge_page * huge_page;
}
}  // namespace

kv_layout::kv_layout(const model::hyperparameters& shape,
                     numerics precision,
                     isa path,
                     kv_type wanted) noexcept
    : layers(shape.layers), kv_heads(shape.kv_heads), head_dim(shape.head_dim), type(wanted) {
  if (wanted != kv_type::automatic) return;
  type = precision == numerics::float32 ? kv_type::f32 : kv_type::f16;
  const bool pairs = path == isa::avx512 && features().avx512_bf16;
  if (precision == numerics::fast && pairs) type = kv_type::bf16;
}

std::size_t kv_layout::head_bytes() const noexcept {
  return size_of(kv_head_bytes(type, head_dim));
}

std::size_t kv_layout::layer_page_bytes() const noexcept {
  return size_of(kv_heads) * head_bytes();
}

std::uint64_t kv_layout::page_bytes() const noexcept {
  return size_of(layers) * layer_page_bytes();
}

int kv_layout::pages_in(std::uint64_t bytes) const noexcept {
  const std::uint64_t most = std::numeric_limits<std::int32_t>::max();
  return static_cast<int>(std::min(bytes / page_bytes(), most));
}

kv_pool::kv_pool(const kv_layout& layout, int pages, std::byte* bytes) noexcept
    : layout_(layout), pages_(pages), bytes_(bytes) {}

kv_pool::kv_pool(kv_pool&& other) noexcept
    : layout_(other.layout_), pages_(other.pages_), bytes_(std::exchange(other.bytes_, nullptr)) {}

kv_pool::~kv_pool() {
  if (bytes_ != nullptr) munmap(bytes_, mapped_bytes(layout_, pages_));
}

result<kv_pool> kv_pool::take(const kv_layout& layout, std::uint64_t bytes) {
  const int pages = layout.pages_in(bytes);
  if (pages < 1) {
    return error{errc::exhausted,
                 "does not hold one page of " + std::to_string(layout.page_bytes()) + " bytes",
                 "cache.kv_bytes"};
  }
  const std::size_t length = mapped_bytes(layout, pages);
  void* const start = mmap(nullptr, length, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (start == MAP_FAILED) {
    return error{errc::exhausted, "the system refused the address space", "cache.kv_bytes"};
  }
  madvise(start, length, MADV_HUGEPAGE);  // only speed depends on it
  return kv_pool(layout, pages, static_cast<std::byte*>(start));
}

std::byte* kv_pool::head_base(int layer, int head) const noexcept {
  return bytes_ + size_of(layer) * layout_.layer_page_bytes() +
         size_of(head) * layout_.head_bytes();
}

void kv_pool::copy_page(page_id from, page_id to, int positions) const noexcept {
  const int dim = layout_.head_dim;
  // What stands side by side: a value, or a pair.
  const int together = layout_.type == kv_type::bf16 ? 2 : 1;
  const std::size_t unit = size_of(kv_value_bytes(layout_.type) * together);
  const std::size_t stride = page_stride();
  const std::size_t scales = layout_.type == kv_type::int8 ? size_of(positions) * sizeof(float) : 0;
  const std::size_t key_row = size_of(page_tokens) * unit;
  const std::size_t keys = size_of((dim + together - 1) / together) * key_row;
  const std::size_t values_at = size_of(kv_key_bytes(layout_.type, dim));
  const std::size_t value_scales_at =
      values_at + size_of(page_tokens / together * padded_dim(dim)) * unit;
  for (int i = 0; i < layout_.layers * layout_.kv_heads; ++i) {
    std::byte* base = head_base(i / layout_.kv_heads, i % layout_.kv_heads);
    const std::byte* source = base + stride * size_of(static_cast<int>(from));
    std::byte* target = base + stride * size_of(static_cast<int>(to));
    for (std::size_t row = 0; row < keys; row += key_row) {
      std::memcpy(target + row, source + row, size_of(positions) * unit);
    }
    std::memcpy(target + keys, source + keys, scales);
    std::memcpy(target + values_at, source + values_at,
                size_of((positions + together - 1) / together * padded_dim(dim)) * unit);
    std::memcpy(target + value_scales_at, source + value_scales_at, scales);
  }
}

}  // namespace foretoken::cpu
