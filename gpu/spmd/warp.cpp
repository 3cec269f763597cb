// SPDX-License-Identifier: Apache-2.0
// Warp operations of the emulator: what the PTX manual says of the fragments, lane by lane.
#include <cstring>

#include "base/half.hpp"
#include "gpu/spmd/block.hpp"

namespace foretoken::gpu::spmd {
namespace {

struct shuffle_job {
  std::uint32_t value, result;
  unsigned source;
};

struct product_job {
  float* d;
  const std::uint32_t* a;
  const std::uint32_t* b;
};

struct load_job {
  std::uint32_t* out;
  int count;
  const void* row;
  place here;
};

float half_of(std::uint32_t pair, unsigned which) {
  return f16_to_float(static_cast<std::uint16_t>(pair >> (16 * which)));
}

// mma.m16n8k16: products are exact, the sum of 17 terms is rounded once.
void multiply(void* const lanes[32]) {
  float a[16][16], b[16][8];
  for (unsigned lane = 0; lane < 32; ++lane) {
    const auto& job = *static_cast<const product_job*>(lanes[lane]);
    const unsigned g = lane / 4, t = lane % 4;
    for (unsigned r = 0; r < 4; ++r) {
      for (unsigned h = 0; h < 2; ++h) {
        a[g + 8 * (r % 2)][2 * t + h + 8 * (r / 2)] = half_of(job.a[r], h);
        if (r < 2) b[2 * t + h + 8 * r][g] = half_of(job.b[r], h);
      }
    }
  }
  for (unsigned lane = 0; lane < 32; ++lane) {
    float* d = static_cast<product_job*>(lanes[lane])->d;
    for (unsigned r = 0; r < 4; ++r) {
      const unsigned row = lane / 4 + 8 * (r / 2), column = 2 * (lane % 4) + r % 2;
      double sum = static_cast<double>(d[r]);
      for (unsigned k = 0; k < 16; ++k) {
        sum += static_cast<double>(a[row][k]) * static_cast<double>(b[k][column]);
      }
      d[r] = static_cast<float>(sum);
    }
  }
}

// ldmatrix: lane 8m + r names row r of matrix m; lane 4r + c gets elements 2c, 2c + 1 of row r.
void load(void* const lanes[32]) {
  for (unsigned lane = 0; lane < 32; ++lane) {
    const auto& job = *static_cast<const load_job*>(lanes[lane]);
    for (unsigned m = 0; m < static_cast<unsigned>(job.count); ++m) {
      const auto& from = *static_cast<const load_job*>(lanes[8 * m + lane / 4]);
      std::memcpy(&job.out[m], static_cast<const char*>(from.row) + 4 * (lane % 4), 4);
    }
  }
}

void exchange(void* const lanes[32]) {
  for (unsigned lane = 0; lane < 32; ++lane) {
    auto& job = *static_cast<shuffle_job*>(lanes[lane]);
    job.result = static_cast<const shuffle_job*>(lanes[job.source])->value;
  }
}

void turn(void* const lanes[32]) {
  std::uint16_t matrix[8][8];
  for (unsigned lane = 0; lane < 32; ++lane) {
    const std::uint32_t pair = static_cast<const shuffle_job*>(lanes[lane])->value;
    matrix[lane / 4][2 * (lane % 4)] = static_cast<std::uint16_t>(pair);
    matrix[lane / 4][2 * (lane % 4) + 1] = static_cast<std::uint16_t>(pair >> 16);
  }
  for (unsigned lane = 0; lane < 32; ++lane) {
    const unsigned row = lane / 4, column = 2 * (lane % 4);
    static_cast<shuffle_job*>(lanes[lane])->result =
        matrix[column][row] | static_cast<std::uint32_t>(matrix[column + 1][row]) << 16;
  }
}

}  // namespace

std::uint32_t shuffle(std::uint32_t value, unsigned source, place here) {
  if (source >= 32) fail("a shuffle from no lane", here);
  shuffle_job job{value, 0, source};
  warp_rendezvous(exchange, &job, here);
  return job.result;
}

void matrix_product(float (&d)[4],
                    const std::uint32_t (&a)[4],
                    const std::uint32_t (&b)[2],
                    place here) {
  product_job job{d, a, b};
  warp_rendezvous(multiply, &job, here);
}

void load_matrices(std::uint32_t* out, int count, const void* row, place here) {
  if (reinterpret_cast<std::uintptr_t>(row) % 16 != 0)
    fail("a matrix row that is not aligned", here);
  load_job job{out, count, row, here};
  warp_rendezvous(load, &job, here);
}

std::uint32_t transpose(std::uint32_t pair, place here) {
  shuffle_job job{pair, 0, 0};
  warp_rendezvous(turn, &job, here);
  return job.result;
}

}  // namespace foretoken::gpu::spmd
