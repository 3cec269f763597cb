// SPDX-License-Identifier: Apache-2.0
#pragma once
// The wide matrix instruction of compute capability 9.0 (wgmma) and what its kernels need beside
// it. Not emulated on the processor, and no code for other devices: FORETOKEN_WIDE says where it
// is.
//
// A warpgroup (four warps) multiplies 64 features by `Rows` rows, 16 columns deep. A comes from
// registers: each warp has 16 features, its fragment is that of mma.m16n8k16, and so are its sums
// (column tile c: d[c]). It adds as mma.m16n8k16 does (docs/decisions/0007).

#include "gpu/device.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define FORETOKEN_WIDE 1
#else
#define FORETOKEN_WIDE 0
#endif

namespace foretoken::gpu {

// Rows of B in shared memory: atoms of 64 columns, [rows][128 bytes], each at a multiple of 1,024
// bytes, the 16-byte pieces of row r exchanged by r % 8 (the 128-byte swizzle).
constexpr int atom_columns = 64;
constexpr int atom_row_bytes = 2 * atom_columns;
FORETOKEN_BOTH constexpr int swizzled(int row, int piece) {
  return row * atom_row_bytes + (piece ^ row % 8) * 16;
}
// Where B begins, for k-step k (0..3) of the atom at `shared`: start, 1,024 bytes from eight rows
// to the next eight, the swizzle.
FORETOKEN_DEVICE std::uint64_t atom_descriptor(std::uint32_t shared, int k) {
  return (static_cast<std::uint64_t>(1) << 62) | (static_cast<std::uint64_t>(1024 >> 4) << 32) |
         (static_cast<std::uint64_t>(1) << 16) | ((shared + 32 * k & 0x3FFFF) >> 4);
}

// A kernel that was compiled for another device ends here, with an error.
FORETOKEN_DEVICE void wide_missing() {
  asm volatile("trap;");
}

// What a thread wrote into shared memory becomes visible to the matrix units, after a barrier.
FORETOKEN_DEVICE void fence_shared_for_wide() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
// Before the first product and whenever registers of one were written.
FORETOKEN_DEVICE void wide_begin() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
FORETOKEN_DEVICE void wide_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int GroupsLeft>
FORETOKEN_DEVICE void wide_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(GroupsLeft) : "memory");
}

// The compiler does not see that a product goes on after its instruction: these registers keep
// their place until here, and what is done with them stays behind (or before) it.
template <int N>
FORETOKEN_DEVICE void hold(float (&values)[N][4]) {
  FORETOKEN_UNROLL
  for (int i = 0; i < N; ++i) {
    asm volatile(""
                 : "+f"(values[i][0]), "+f"(values[i][1]), "+f"(values[i][2]), "+f"(values[i][3])
                 :
                 : "memory");
  }
}
template <int N>
FORETOKEN_DEVICE void hold(std::uint32_t (&values)[N][4]) {
  FORETOKEN_UNROLL
  for (int i = 0; i < N; ++i) {
    asm volatile(""
                 : "+r"(values[i][0]), "+r"(values[i][1]), "+r"(values[i][2]), "+r"(values[i][3])
                 :
                 : "memory");
  }
}

#define FORETOKEN_SUMS_4(c) "+f"(d[c][0]), "+f"(d[c][1]), "+f"(d[c][2]), "+f"(d[c][3])
#define FORETOKEN_SUMS_16(c) \
  FORETOKEN_SUMS_4(c), FORETOKEN_SUMS_4(c + 1), FORETOKEN_SUMS_4(c + 2), FORETOKEN_SUMS_4(c + 3)

// d += a b, asynchronously: registers may not be touched before wide_wait.
FORETOKEN_DEVICE void wide_mma(float (&d)[4][4], const std::uint32_t (&a)[4], std::uint64_t rows) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n32k16.f32.f16.f16 {"
      "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
      "},{%16,%17,%18,%19},%20,1,1,1,0;"
      : FORETOKEN_SUMS_16(0)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(rows));
}
FORETOKEN_DEVICE void wide_mma(float (&d)[8][4], const std::uint32_t (&a)[4], std::uint64_t rows) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {"
      "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
      "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
      "},{%32,%33,%34,%35},%36,1,1,1,0;"
      : FORETOKEN_SUMS_16(0), FORETOKEN_SUMS_16(4)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(rows));
}
FORETOKEN_DEVICE void wide_mma(float (&d)[12][4], const std::uint32_t (&a)[4], std::uint64_t rows) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n96k16.f32.f16.f16 {"
      "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
      "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
      "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
      "},{%48,%49,%50,%51},%52,1,1,1,0;"
      : FORETOKEN_SUMS_16(0), FORETOKEN_SUMS_16(4), FORETOKEN_SUMS_16(8)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(rows));
}
FORETOKEN_DEVICE void wide_mma(float (&d)[16][4], const std::uint32_t (&a)[4], std::uint64_t rows) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {"
      "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
      "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
      "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"
      "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
      "},{%64,%65,%66,%67},%68,1,1,1,0;"
      : FORETOKEN_SUMS_16(0), FORETOKEN_SUMS_16(4), FORETOKEN_SUMS_16(8), FORETOKEN_SUMS_16(12)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(rows));
}
#undef FORETOKEN_SUMS_16
#undef FORETOKEN_SUMS_4

}  // namespace foretoken::gpu
