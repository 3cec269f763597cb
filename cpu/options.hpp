// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <chrono>
#include <cstdint>
#include <filesystem>

namespace foretoken {
class counter;
class gauge;
}  // namespace foretoken

namespace foretoken::cpu {

// What a loaded model computes with; accuracy and speed of each are in docs/accuracy.md.
// exact: activations in 16 bits: float32's answers.
// fast: activations in 8 bits with a scale per 32 (16 for attention values and the head).
// float32: activations and KV in float32, weights dequantised; slow, for checking.
enum class numerics { exact, fast, float32 };
// How keys and values are stored; docs/accuracy.md has what each costs.
// automatic: f16; bf16 where the numerics are fast and the processor multiplies it (AVX-512 BF16);
// f32 where they are float32.
// bf16: for models whose keys or values leave the range of f16. int8: half of f16's memory, one
// scale a position and head.
enum class kv_type { automatic, f16, bf16, int8, f32 };
// What matrices of f32, f16 and bf16 become when they are packed
// (docs/decisions/0008-float-weights.md). keep: they stay as they are. w8: 8-bit weights with an
// f16 scale per 32 columns; needs columns in whole groups and numerics other than float32, else
// they are kept.
enum class float_weights { keep, w8 };
// auto: the best the CPU has. Others force a path, for tests; refused when the CPU lacks it.
enum class isa { automatic, avx512, avx2, portable };

// Repacked weights that stay on disk between starts
// (docs/decisions/0004-packed-weights-on-disk.md). automatic: for files that are large enough to
// gain by it.
enum class packed_cache { automatic, on, off };
struct packed_options {
  packed_cache use = packed_cache::automatic;
  std::filesystem::path folder;           // private to the user; empty = nothing is kept
  std::uint64_t bytes_max = 16ull << 30;  // of all files kept; the least recently used go
  std::chrono::milliseconds settled_after{
      2000};  // a source touched later is not remembered; tests: 0
};

struct options {
  int threads = 0;  // compute threads; 0 = cores - 0 on <= 2 cores, else cores - 1
  numerics precision = numerics::exact;
  isa path = isa::automatic;
  float_weights floats = float_weights::keep;
  int rows_max = 512;                   // rows of one step
  std::uint64_t kv_bytes = 256u << 20;  // KV pool; address space at start, memory when touched
  kv_type kv = kv_type::automatic;
  packed_options packed;
  bool last_reader = false;  // of the model file: its memory is given back as it is packed
  // These outlive the ops.
  counter* kv_saturated = nullptr;   // keys and values clamped to the f16 range
  gauge* threads_working = nullptr;  // fewer than asked for while other programs use the cores
};

}  // namespace foretoken::cpu
