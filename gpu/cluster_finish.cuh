// SPDX-License-Identifier: Apache-2.0
#pragma once
// What follows a product, and the sends to the blocks that need it. A finisher is a thread with two
// places of one row of a tile: 4 of the 16 bytes of f16 that half a tile is in a B fragment. Four
// threads share their words; each sends the 16 bytes to four blocks. A warp has four rows of one
// tile.

#include "gpu/cluster_block.cuh"
#include "gpu/packed_value.cuh"

namespace foretoken::gpu::cluster {

template <class S, int Tiles>
struct finisher {
  int word, half, tile, row;  // tile: of the block's tiles
  int first_row;              // of the warp's four
  bool tile_there, valid;
  FORETOKEN_DEVICE finisher(const block<S>& b, int own) {
    word = b.thread & 3;
    half = b.thread >> 2 & 1;
    tile = (b.thread >> 5) % Tiles;
    first_row = (b.thread >> 5) / Tiles * 4;
    row = first_row + (b.thread >> 3 & 3);
    tile_there = tile < own;
    valid = row < b.rows && tile_there;
    if (!tile_there) tile = 0;
    if (!valid) row = 0;
  }
  FORETOKEN_DEVICE int place() const { return half * 8 + word * 2; }
  // The first of two neighbouring features of the tile.
  FORETOKEN_DEVICE int feature() const { return 4 * half + word / 2 * 2 + word % 2 * 8; }
};

// The four words of piece 0..7 of a warp, lanes 4 piece .. + 3. Eight neighbouring lanes take the
// eight pieces, four times: one store of a warp brings 128 bytes to each of four blocks.
FORETOKEN_DEVICE u32x4 gather(std::uint32_t word, int piece) {
  const int first = piece * 4;
  return {shuffle(word, first), shuffle(word, first + 1), shuffle(word, first + 2),
          shuffle(word, first + 3)};
}

// Sum of squares of the tile, in the order of numerics.cuh, by its eight finishers.
FORETOKEN_DEVICE float tile_squares_of(const f32x2& x) {
  f32x2 s{x.x * x.x, x.y * x.y};
  s.x += shuffle_xor(s.x, 1);
  s.y += shuffle_xor(s.y, 1);
  float sum = s.x + s.y;
  sum += shuffle_xor(sum, 2);
  return sum + shuffle_xor(sum, 4);
}

// Where row `row` of a k16 step stands in B fragments.
template <class S>
FORETOKEN_DEVICE int fragment_at(int step, int row) {
  return step * step_bytes(S::rows) + row * 32;
}

// What a finisher of the residual stream does after every product, worked out once. Offsets of its
// two places: sums in floats, the others in bytes from the start of shared memory.
struct residual_plan {
  bool valid, sends;
  int units;    // of the first segment's sums
  int x;        // its part of the stream
  int input;    // of the 16 bytes it sends, in every block
  int squares;  // of four rows' sums of its tile, in the first of the two tables
  int feature;  // the first of its two neighbouring features
};

template <class S>
FORETOKEN_DEVICE residual_plan plan_residual(const block<S>& b) {
  using at = memory<S>;
  const finisher<S, S::o_tiles> f(b, b.own(S::tiles_width));
  const int tile = b.rank + blocks * f.tile;
  const int piece = b.lane % 8, row = f.first_row + piece / 2;  // what it sends, see gather()
  return {f.valid,
          f.tile_there && row < b.rows,
          f.tile * parts * at::unit_floats + f.row * 16 + f.place(),
          at::x + ((f.tile * S::rows + f.row) * 16 + f.place()) * 4,
          at::input + fragment_at<S>(tile, row) + piece % 2 * 16,
          at::squares + (f.first_row / 4 * S::tiles_width + tile) * 16,
          tile * 16 + f.feature()};
}

// The residual stream of this finisher's features becomes `x`; its f16 input of the next norm's
// product and the sums of squares go to every block. `which`: the table of sums that is written.
// Whole warps.
template <class S>
FORETOKEN_DEVICE void send_residual(block<S>& b,
                                    const residual_plan& plan,
                                    const f32x2& x,
                                    const f32x2& gain,
                                    int which,
                                    exchange to) {
  using at = memory<S>;
  const float squares = tile_squares_of(x);
  const u32x4 packed = gather(stored_pair(x.x * gain.x, x.y * gain.y), b.lane % 8);
  const std::uint32_t bits = float_bits(squares);
  const u32x4 sums{shuffle(bits, 0), shuffle(bits, 8), shuffle(bits, 16), shuffle(bits, 24)};
  if (plan.valid) *reinterpret_cast<f32x2*>(b.base() + plan.x) = x;
  if (!plan.sends) return;
  FORETOKEN_UNROLL
  for (int i = 0; i < 4; ++i) b.send(i, plan.input, packed, to);
  if (b.lane % 8 != 0) return;
  FORETOKEN_UNROLL
  for (int i = 0; i < 4; ++i) {
    b.send(i, plan.squares + which * at::squares_floats * 4, sums, to);
  }
}
template <class S>
constexpr std::uint32_t residual_bytes(int rows) {
  return static_cast<std::uint32_t>(rows * S::width * 2 + (rows + 3) / 4 * S::tiles_width * 16);
}

// The gains this thread will need, loaded before a wait.
template <class S>
FORETOKEN_DEVICE f32x2 gains_for(const block<S>& b, const residual_plan& plan, int norm) {
  return *reinterpret_cast<const f32x2*>(b.job.model.gains + norm * S::width + plan.feature);
}

// x = embedding[token] * scale, and on to the first layer.
template <class S>
FORETOKEN_DEVICE void send_embedding(block<S>& b, const residual_plan& plan) {
  const finisher<S, S::o_tiles> f(b, b.own(S::tiles_width));
  const packed_matrix& from = b.job.model.embedding;
  const int token = b.table().token[f.row];
  const float scale = b.job.model.embedding_scale;
  const f32x2 x{packed_value(from, token, plan.feature) * scale,
                packed_value(from, token, plan.feature + 1) * scale};
  send_residual(b, plan, x, gains_for(b, plan, 0), 0, to_next);
}

// x += W a, whose sums are at `sums_at`.
template <class S>
FORETOKEN_DEVICE void finish_residual(block<S>& b,
                                      const residual_plan& plan,
                                      int sums_at,
                                      const f32x2& gain,
                                      int which,
                                      exchange to) {
  f32x2 y{0, 0}, x{0, 0};
  if (plan.valid) {
    y = finished<S::rows>(b.floats(sums_at) + plan.units, 0, 0);
    x = *reinterpret_cast<const f32x2*>(b.base() + plan.x);
  }
  send_residual(b, plan, f32x2{x.x + y.x, x.y + y.y}, gain, which, to);
}

// ---- q, k, v
// ---------------------------------------------------------------------------------------

// The finisher's two values after rotation. Words 2n and 2n + 1 hold the first and second values of
// two pairs; what comes back are two neighbouring dims: both firsts, both seconds, or one whole
// pair.
template <class S>
FORETOKEN_DEVICE f32x2 rotated(const block<S>& b, const f32x2& mine, int word, int pair, int row) {
  const f32x2 other{shuffle_xor(mine.x, 1), shuffle_xor(mine.y, 1)};
  const bool second = word % 2 == 1;
  const f32x2 first = second ? other : mine, last = second ? mine : other;
  const float* const angle = b.floats(memory<S>::angles) + row * head_dim;
  const bool neighbours = b.job.model.rope_neighbours;
  const int next = pair + (neighbours ? 4 : 1);
  const rotated_pair one = rotate(first.x, last.x, angle[pair], angle[head_dim / 2 + pair]);
  const rotated_pair two = rotate(first.y, last.y, angle[next], angle[head_dim / 2 + next]);
  if (neighbours) return second ? f32x2{two.a, two.b} : f32x2{one.a, one.b};
  return second ? f32x2{one.b, two.b} : f32x2{one.a, two.a};
}

// Where 8 bytes (two words 8 dims, or in a value 2 dims, apart) of q, k or v stand in a reader's
// memory.
template <class S>
FORETOKEN_DEVICE int qkv_place(const qkv_row& what, int pair, int dim) {
  using at = memory<S>;
  if (what.part == 0) {
    return at::query + pair * at::query_bytes + what.head % S::group * 32 +
           dim / 16 * (S::group * 32) + dim % 8 / 2 * 8;
  }
  const int from = at::newest + pair * at::newest_bytes;
  if (what.part == 1) return from + dim / 16 * 32 + dim % 8 / 2 * 8;
  return from + head_dim * 2 + dim * 2;
}

// What a finisher of q, k, v does in every layer, worked out once.
struct qkv_plan {
  int row;                // -1: nothing
  int units;              // of the sums, in floats
  int angle;              // pair of its two values
  int target;             // of its 8 bytes, in a reader's memory
  std::uint32_t readers;  // the blocks it sends to
  std::uint32_t append;   // place of its word in a layer's pages, in f16
  int part;               // 0 q, 1 k, 2 v
  bool close;             // the other word of the 8 bytes is one finisher away, else two
  bool later;             // its own word is the second
};

template <class S>
FORETOKEN_DEVICE qkv_plan plan_qkv(const block<S>& b) {
  using at = memory<S>;
  const finisher<S, S::q_tiles> f(b, b.own(S::tiles_qkv));
  const tables& t = b.table();
  const bool neighbours = b.job.model.rope_neighbours;
  const int tile = b.rank + blocks * f.tile, quarter = tile % 4;
  const qkv_row what = qkv_row_of(tile, 4 * f.half, S::heads, S::kv_heads, neighbours);
  qkv_plan p;
  p.part = what.part;
  p.row = f.valid ? f.row : -1;
  p.units = f.tile * parts * at::unit_floats + f.row * 16 + f.place();
  const int number = f.word / 2;  // of two couples of pairs
  p.angle = what.part == 2 ? 0
            : neighbours   ? 8 * quarter + 2 * f.half + number
                           : 16 * (quarter / 2) + 2 * (2 * (quarter % 2) + f.half) + 8 * number;
  // Words in order of dims: two firsts (word 0, 2), two seconds (1, 3); neighbours: (0, 1), (2, 3).
  p.close = what.part != 2 && neighbours;
  p.later = p.close ? f.word % 2 == 1 : f.word / 2 == 1;
  const bool upper = p.close ? f.word / 2 == 1 : f.word % 2 == 1;
  const int first = what.dim + (!upper ? 0 : p.close ? 2 : what.part != 2 ? 32 : 8);
  const int kv_head = what.part == 0 ? what.head / S::group : what.head;
  const int owner = f.row * S::kv_heads + kv_head;
  p.target = qkv_place<S>(what, owner, first);
  p.readers = (what.part == 0 ? t.readers : t.last_reader)[owner] & (p.later ? 0xFF00u : 0x00FFu);
  const int token = t.position[f.row] % page_positions;
  const int dim = first + (!p.later ? 0 : what.part == 1 ? 8 : 2);
  p.append = static_cast<std::uint32_t>(
      what.head * (2 * page_positions * head_dim) +
      (what.part == 1 ? key_offset(token, dim)
                      : page_positions * head_dim + value_offset(token, dim)));
  return p;
}

// The row's newest page is known.
template <class S>
FORETOKEN_DEVICE void plan_append(const block<S>& b, qkv_plan& p) {
  if (p.row < 0) return;
  p.append += static_cast<std::uint32_t>(b.table().newest_page[p.row] * S::kv_heads *
                                         (2 * page_positions * head_dim));
}

// Scales by 1/rms, rotates, rounds, sends to the blocks that attend to the row's pages, appends to
// `kv`, this layer's pages. Whole warps.
template <class S>
FORETOKEN_DEVICE void finish_qkv(block<S>& b, const qkv_plan& p, std::uint16_t* kv) {
  using at = memory<S>;
  const bool valid = p.row >= 0;
  const int row = valid ? p.row : 0;
  f32x2 y{0, 0};
  if (valid) y = finished<S::rows>(b.floats(at::units) + p.units, 0, 0);
  const float scale = valid ? b.floats(at::scale)[row] : 0.0f;
  y.x *= scale;
  y.y *= scale;
  const f32x2 turned = rotated(b, y, b.thread & 3, p.angle, row);
  if (p.part != 2) y = turned;
  if (p.part == 0) {
    y.x *= b.job.model.query_scale;
    y.y *= b.job.model.query_scale;
  }
  const std::uint32_t mine = stored_pair(y.x, y.y);
  const std::uint32_t one = shuffle_xor(mine, 1), two = shuffle_xor(mine, 2);
  const std::uint32_t other = p.close ? one : two;
  if (!valid) return;
  b.count_clamped(y.x);
  b.count_clamped(y.y);
  const u32x2 piece = p.later ? u32x2{other, mine} : u32x2{mine, other};
  const std::uint32_t arrival = shared_address(b.arrival(to_attention));
  for (std::uint32_t readers = p.readers; readers != 0; readers &= readers - 1) {
    send_8(b.local(p.target), piece, arrival, __ffs(static_cast<int>(readers)) - 1);
  }
  if (p.part == 1) *reinterpret_cast<std::uint32_t*>(kv + p.append) = mine;
  if (p.part == 2) {  // dims d and d + 1 of one position
    kv[p.append] = static_cast<std::uint16_t>(mine);
    kv[p.append + 32] = static_cast<std::uint16_t>(mine >> 16);
  }
}

// ---- the FFN's hidden values
// -----------------------------------------------------------------------

// total: gate rows in [0..1], up rows in [2..3]. One warp, one tile: 8 hidden features of every
// row.
template <class S>
FORETOKEN_DEVICE void finish_hidden(block<S>& b, const float (&total)[S::columns][4]) {
  using at = memory<S>;
  const int tile = b.rank + blocks * b.warp;
  const int q = b.lane % 4;
  const float* const scale = b.floats(at::scale) + S::rows_in_fours;
  FORETOKEN_UNROLL
  for (int c = 0; c < S::columns; ++c) {
    if (c > 0 && 8 * c >= b.rows) break;
    float h[2];
    FORETOKEN_UNROLL
    for (int i = 0; i < 2; ++i) {
      // Rows that are not there would send the division onto its slow path.
      const bool wanted = 8 * c + 2 * q + i < b.rows;
      const float r = scale[S::rows >= 8 * c + 8 ? 8 * c + 2 * q + i : 8 * c + (2 * q + i) % 4];
      const float gate = wanted ? total[c][i] * r : 1.0f;
      h[i] = wanted ? silu(gate) * (total[c][2 + i] * r) : 0.0f;
    }
    // lane 4g + q: features 2q, 2q + 1 of row g; then all eight features of row g in four lanes
    const u32x4 packed = gather(transpose_8x8(stored_pair(h[0], h[1])), b.lane % 8);
    if (8 * c + b.lane % 8 >= b.rows) continue;
    const int target = at::hidden + tile / 2 * step_bytes(S::rows) +
                       hidden_place(tile % 2, 8 * c + b.lane % 8, S::rows);
    FORETOKEN_UNROLL
    for (int i = 0; i < 4; ++i) b.send(i, target, packed, to_down);
  }
}

}  // namespace foretoken::gpu::cluster
