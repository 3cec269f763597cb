// SPDX-License-Identifier: Apache-2.0
// How fast y = W x is, beside what this machine can do at the same moment: the rate of integer
// multiply-adds and of streaming reads. GMAC/s count bytes of activations (twice the weights for
// the 16-bit ones of exact); GB/s are bytes of packed weights. All tiles of all copies are one row
// of tickets, so that no thread waits, and results go where a step's go: beside each other, a tile
// at a time. `--only` takes the shapes whose names begin so.
//   linear_bench [--precision exact|fast] [--threads N] [--isa avx512|avx2|portable]
//                [--only NAME] [--smoke]

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string_view>
#include <thread>
#include <vector>

#include "bench/peaks.hpp"
#include "cpu/dispatch.hpp"
#include "cpu/linear.hpp"

namespace {

using namespace foretoken;
using clock_type = std::chrono::steady_clock;

double seconds_since(clock_type::time_point start) {
  return std::chrono::duration<double>(clock_type::now() - start).count();
}

struct settings {
  cpu::options chosen;
  std::string_view only;
  bool smoke = false;
};

struct shape {
  const char* name;
  model::dtype type;
  std::int64_t rows, columns;
};

model::tensor make_tensor(const shape& what, std::vector<std::byte>& bytes) {
  std::size_t block = 4, values = 1;
  if (what.type == model::dtype::q4_1) block = 20, values = 32;
  if (what.type == model::dtype::q4_0) block = 18, values = 32;
  if (what.type == model::dtype::q8_0) block = 34, values = 32;
  if (what.type == model::dtype::q6_k) block = 210, values = 256;
  if (what.type == model::dtype::bf16) block = 2;
  bytes.resize(static_cast<std::size_t>(what.rows * what.columns) / values * block);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 37 % 48);
  return {what.name, what.type, what.rows, what.columns, false, bytes};
}

struct subject {
  std::vector<std::unique_ptr<const cpu::linear>> copies;  // enough to be larger than the caches
  std::int64_t macs = 0;                                   // of one row through one copy
  std::uint64_t bytes = 0;                                 // of all copies
};

subject make_subject(const shape& what, const settings& s, cpu::thread_pool& threads) {
  std::vector<std::byte> bytes;
  const model::tensor tensor = make_tensor(what, bytes);
  subject made;
  made.macs = what.rows * what.columns;
  const std::uint64_t enough = s.smoke ? 1 : 160u << 20;
  while (made.bytes < enough) {
    auto packed = cpu::linear::pack({&tensor, 1}, false, s.chosen, threads);
    if (!packed) {
      std::fprintf(stderr, "%s\n", to_string(packed.error()).c_str());
      std::exit(1);
    }
    made.bytes += (*packed)->bytes();
    made.copies.push_back(std::move(packed).value());
  }
  return made;
}

struct timing {
  double best = 1e9, median = 0;
};

// The first `rows` rows of x through every tile once; y: [thread][rows][tile_rows].
void multiply_all(const subject& what,
                  int rows,
                  const cpu::activations& x,
                  std::vector<float>& y,
                  cpu::thread_pool& threads) {
  const int tiles = what.copies.front()->tiles();
  const int tickets = tiles * static_cast<int>(what.copies.size());
  const auto matrix_of = [&](int ticket) -> const cpu::linear& {
    return *what.copies[static_cast<std::size_t>(ticket / tiles)];
  };
  threads.run(tickets, [&](int ticket, int thread) {
    const int next = (ticket + 1) % tickets;
    float* const to = y.data() + std::ptrdiff_t{thread} * rows * cpu::tile_rows;
    matrix_of(ticket).apply(ticket % tiles, x, 0, rows, to, cpu::tile_rows,
                            {matrix_of(next).tile_data(next % tiles)});
  });
}

timing measure(const subject& what,
               int rows,
               const cpu::activations& x,
               std::vector<float>& y,
               cpu::thread_pool& threads,
               int rounds) {
  std::vector<double> times;
  for (int round = 0; round < rounds + 1; ++round) {  // the first one warms up
    const auto start = clock_type::now();
    multiply_all(what, rows, x, y, threads);
    if (round > 0) times.push_back(seconds_since(start));
  }
  std::sort(times.begin(), times.end());
  return {times.front(), times[times.size() / 2]};
}

void run_shape(const shape& what,
               const settings& s,
               cpu::thread_pool& threads,
               const bench::streamed_memory& memory) {
  const subject made = make_subject(what, s, threads);
  const int most = s.smoke ? 3 : 128;
  const int planes = s.chosen.precision == cpu::numerics::exact ? 2 : 1;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  cpu::activations x(most, static_cast<int>(what.columns), s.chosen, made.copies.front()->reads());
  std::vector<float> row(static_cast<std::size_t>(what.columns));
  for (int m = 0; m < most; ++m) {
    for (float& value : row) value = normal(random);
    x.set(m, row.data(), static_cast<int>(what.columns));
  }
  std::vector<float> y(static_cast<std::size_t>(s.chosen.threads * most * cpu::tile_rows));
  for (const int rows : {1, 2, 3, 4, 8, 16, 32, 128}) {
    if (rows > most) continue;
    const double peak = bench::multiply_add_peak(threads);
    const double stream = memory.read(threads);
    const timing t = measure(made, rows, x, y, threads, s.smoke ? 1 : rows > 8 ? 3 : 9);
    const double macs = static_cast<double>(made.macs) * rows * planes *
                        static_cast<double>(made.copies.size()) / 1e9;
    const double bytes = static_cast<double>(made.bytes) / 1e9;
    std::printf(
        "%-18s M=%-4d median %7.1f GMAC/s %6.1f GB/s   best %7.1f GMAC/s (%3.0f%% of %4.0f) "
        "%6.1f GB/s (%3.0f%% of %3.0f)\n",
        what.name, rows, macs / t.median, bytes / t.median, macs / t.best,
        peak > 0 ? 100 * macs / t.best / peak : 0.0, peak, bytes / t.best,
        100 * bytes / t.best / stream, stream);
    std::fflush(stdout);
  }
}

bool parse(int count, char** arguments, settings& s) {
  for (int i = 1; i < count; ++i) {
    const std::string_view flag = arguments[i];
    const std::string_view value = i + 1 < count ? arguments[i + 1] : "";
    if (flag == "--smoke") {
      s.smoke = true;
    } else if (flag == "--threads" && std::atoi(value.data()) > 0) {  // ends as argv does
      s.chosen.threads = std::atoi(arguments[++i]);
    } else if (flag == "--precision" && (value == "exact" || value == "fast")) {
      s.chosen.precision = value == "exact" ? cpu::numerics::exact : cpu::numerics::fast;
      ++i;
    } else if (flag == "--only" && !value.empty()) {
      s.only = value;
      ++i;
    } else if (flag == "--isa" && (value == "avx512" || value == "avx2" || value == "portable")) {
      s.chosen.path = value == "avx512" ? cpu::isa::avx512
                      : value == "avx2" ? cpu::isa::avx2
                                        : cpu::isa::portable;
      ++i;
    } else {
      return false;
    }
  }
  return true;
}

}  // namespace

int main(int count, char** arguments) {
  settings s;
  s.chosen.threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  if (!parse(count, arguments, s)) {
    std::fprintf(stderr,
                 "usage: linear_bench [--precision exact|fast] [--threads N] "
                 "[--isa avx512|avx2|portable] [--only NAME] [--smoke]\n");
    return 2;
  }
  const auto path = cpu::choose_isa(s.chosen.path);
  if (!path) {
    std::fprintf(stderr, "%s\n", to_string(path.error()).c_str());
    return 2;
  }
  cpu::thread_pool threads(s.chosen.threads);
  std::printf("linear_bench: %s, %s, %d threads, compiler %s, seed 1\n",
              s.chosen.precision == cpu::numerics::exact ? "exact" : "fast",
              cpu::isa_name(path.value()), threads.threads(), __VERSION__);
  const bench::streamed_memory memory(s.smoke ? 4u << 20 : bench::streamed_memory::usual_bytes);
  const shape shapes[] = {{"q4_1 960x576", model::dtype::q4_1, 960, 576},
                          {"q4_1 3072x576", model::dtype::q4_1, 3072, 576},
                          {"q4_1 576x1536", model::dtype::q4_1, 576, 1536},
                          {"q8_0 49152x576", model::dtype::q8_0, s.smoke ? 64 : 49152, 576},
                          {"q6_k 1024x2048", model::dtype::q6_k, 1024, 2048},
                          {"bf16 960x576", model::dtype::bf16, 960, 576},
                          {"f32 960x576", model::dtype::f32, 960, 576}};
  for (const shape& what : shapes) {
    if (std::string_view(what.name).starts_with(s.only)) run_shape(what, s, threads, memory);
  }
  return 0;
}
