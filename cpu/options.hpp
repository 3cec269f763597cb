// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <string>

namespace foretoken {
class counter;
}  // namespace foretoken

namespace foretoken::cpu {

// exact: activations as two int8 (16 bits), KV in f16: float32's answers (docs/accuracy).
// float32: activations and KV in float32, weights dequantised; slow, for checking.
enum class numerics { exact, float32 };
// auto: the best the CPU has. Others force a path, for tests; refused when the CPU lacks it.
enum class isa { automatic, avx512, avx2, portable };

struct options {
  int threads = 0;                     // compute threads; 0 = cores - 0 on <= 2 cores, else cores - 1
  numerics precision = numerics::exact;
  isa path = isa::automatic;
  int rows_max = 512;                  // rows of one step
  std::uint64_t kv_bytes = 256u << 20; // KV pool; address space at start, memory when touched
  counter* kv_saturated = nullptr;     // keys and values clamped to the f16 range; outlives the ops
};

}  // namespace foretoken::cpu
