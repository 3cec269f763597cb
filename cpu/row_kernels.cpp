// SPDX-License-Identifier: Apache-2.0
#include "cpu/row_kernels.hpp"

#include "cpu/dispatch.hpp"

namespace foretoken::cpu {

const row_kernels* find_row_kernels(isa path) noexcept {
#if defined(__x86_64__)
  if (path == isa::avx512 && features().avx512) return &row_kernels_avx512();
  if (path == isa::avx2 && features().avx2) return &row_kernels_avx2();
#endif
  return path == isa::portable ? &row_kernels_portable() : nullptr;
}

}  // namespace foretoken::cpu
