// SPDX-License-Identifier: Apache-2.0
#pragma once
// The order of sums that the kernels keep, as a product without any cleverness: for comparison with
// others' bits.

#include <cstdint>

#include <cuda_runtime.h>

namespace foretoken {

// y[m][n] = one chain of m16n8k16 from zero, ascending over inputs [0, used); w and x are rows of
// `inputs` f16 values in device memory. Whole 16 outputs, 8 rows and 16 inputs.
struct chain_arguments {
  const std::uint16_t* w;
  const std::uint16_t* x;
  float* y;
  int outputs, rows, used, inputs;
};
cudaError_t launch_chain(const chain_arguments& given, cudaStream_t stream);

}  // namespace foretoken
