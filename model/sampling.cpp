// SPDX-License-Identifier: Apache-2.0
// The order of things, the one most servers use:
//   1 repetition penalty on tokens of prompt and generated (once each), then presence and frequency
//     on generated ones, then logit_bias is added; greedy stops here with the largest
//   2 temperature divides
//   3 top_k keeps the k largest
//   4 top_p keeps the fewest of these, largest first, whose share reaches top_p (at least one)
//   5 min_p keeps those at least min_p times as probable as the most probable one
//   6 one draw by inverse distribution: over candidates largest first when 3 or 4 cut, by id
//   otherwise
// Every order among tokens is (value descending, id ascending), so ties never depend on how the
// candidates were found. Sums run in double, in fixed lanes.
#include "model/sampling.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "model/adjustments.hpp"
#include "model/philox.hpp"
#include "model/token_weights.hpp"

namespace foretoken::model {
namespace {

constexpr std::size_t lanes = 16;  // accumulators of a pass: what lets the compiler use vectors
constexpr std::size_t block = weights_block;  // logits looked at between two decisions
constexpr std::size_t heap_max = 1024;  // larger selections partition instead of keeping a heap

struct candidate {
  float value;
  token id;
};
// "comes before": larger first, ties by lower id
bool before(const candidate& a, const candidate& b) noexcept {
  return a.value > b.value || (a.value == b.value && a.id < b.id);
}

// Buffers of the calling thread; sampling allocates only when a vocabulary grows.
struct scratch {
  std::vector<float> adjusted;
  std::vector<float> weights;
  std::vector<adjustment> adjustments;
  std::vector<candidate> picked;
};
scratch& buffers() {
  thread_local scratch own;
  return own;
}

float block_max(const float* x, std::size_t n) noexcept {
  std::array<float, lanes> top;
  top.fill(-std::numeric_limits<float>::infinity());
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    for (std::size_t j = 0; j < lanes; ++j) top[j] = x[i + j] > top[j] ? x[i + j] : top[j];
  }
  for (; i < n; ++i) top[0] = x[i] > top[0] ? x[i] : top[0];
  return *std::max_element(top.begin(), top.end());
}

// x * 0 is 0 for finite x and NaN otherwise; one multiply and add per logit.
bool all_finite(const float* x, std::size_t n) noexcept {
  std::array<float, lanes> sum{};
  std::size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    for (std::size_t j = 0; j < lanes; ++j) sum[j] += x[i + j] * 0.0f;
  }
  for (; i < n; ++i) sum[0] += x[i] * 0.0f;
  for (const float lane : sum) {
    if (!(lane == 0.0f)) return false;
  }
  return true;
}

struct peak {
  float value = 0;
  token id = -1;
  bool finite = true;
};

// The largest logit and the finiteness of all, in one pass over memory (each block is in L1 when it
// is read the second time).
peak find_peak(std::span<const float> logits) noexcept {
  peak best;
  std::size_t best_block = 0;
  best.value = -std::numeric_limits<float>::infinity();
  for (std::size_t start = 0; start < logits.size(); start += block) {
    const std::size_t count = std::min(block, logits.size() - start);
    if (!all_finite(logits.data() + start, count)) {
      best.finite = false;
      return best;
    }
    const float top = block_max(logits.data() + start, count);
    if (top > best.value) {
      best.value = top;
      best_block = start;
    }
  }
  for (std::size_t i = best_block; i < logits.size() && best.id < 0; ++i) {
    if (logits[i] == best.value) best.id = static_cast<token>(i);
  }
  return best;
}

// The k first in order, in order. A heap whose root is the worst kept; blocks that cannot beat it
// are skipped after one vector maximum.
void select_few(std::span<const float> x, std::size_t k, std::vector<candidate>& out) {
  constexpr std::size_t step = 64;
  out.clear();
  for (std::size_t start = 0; start < x.size(); start += step) {
    const std::size_t count = std::min(step, x.size() - start);
    if (out.size() == k && !(block_max(x.data() + start, count) > out.front().value)) continue;
    for (std::size_t i = start; i < start + count; ++i) {
      const candidate next{x[i], static_cast<token>(i)};
      if (out.size() < k) {
        out.push_back(next);
        std::push_heap(out.begin(), out.end(), before);
      } else if (before(next, out.front())) {
        std::pop_heap(out.begin(), out.end(), before);
        out.back() = next;
        std::push_heap(out.begin(), out.end(), before);
      }
    }
  }
  std::sort_heap(out.begin(), out.end(), before);
}

void select(std::span<const float> x, std::size_t k, std::vector<candidate>& out) {
  k = std::min(k, x.size());
  if (k == 0) return out.clear();
  if (k <= heap_max) return select_few(x, k, out);
  out.resize(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) out[i] = {x[i], static_cast<token>(i)};
  const auto end = out.begin() + static_cast<std::ptrdiff_t>(k);
  if (k < out.size()) std::nth_element(out.begin(), end - 1, out.end(), before);
  out.erase(end, out.end());
  std::sort(out.begin(), out.end(), before);
}

void adjust(std::vector<float>& x, std::span<const adjustment> by) {
  const auto at = [&](const adjustment& one) -> float& {
    return x[static_cast<std::size_t>(one.id)];
  };
  for (const adjustment& one : by) at(one) = adjusted(at(one), one);
  for (const adjustment& one : by) at(one) = settled(at(one));
}

// Draw over all tokens by id, those below `least` left out.
token draw_all(std::vector<float>& weights, double total, float least, double u) {
  if (least > 0) {
    total = 0;
    for (float& w : weights) w = w < least ? 0.0f : w;
    for (std::size_t s = 0; s < weights.size(); s += block) {
      total += sum_in_lanes(weights.data() + s, std::min(block, weights.size() - s));
    }
  }
  const double target = u * total;
  double sum = 0;
  token last = -1;
  for (std::size_t start = 0; start < weights.size(); start += block) {
    const std::size_t count = std::min(block, weights.size() - start);
    const double here = sum_in_lanes(weights.data() + start, count);
    const bool inside = sum + here > target;
    double running = sum;
    for (std::size_t i = start; inside && i < start + count; ++i) {
      if (weights[i] <= 0) continue;
      last = static_cast<token>(i);
      running += static_cast<double>(weights[i]);
      if (running > target) return last;
    }
    // Rounding can leave the running sum a hair below the lane sum: the block's last token it is.
    if (inside) return last;
    sum += here;
  }
  for (std::size_t i = weights.size(); i-- > 0;) {
    if (weights[i] > 0) return static_cast<token>(i);
  }
  return last;
}

// Draw over candidates in order: of `picked`, as many as top_p and min_p leave.
token draw_picked(const std::vector<candidate>& picked,
                  std::span<const float> weights,
                  double total,
                  const sampling_parameters& p,
                  double u) {
  const double enough = p.top_p < 1 ? static_cast<double>(p.top_p) * total : total * 2;
  double sum = 0;
  std::size_t kept = 0;
  while (kept < picked.size()) {
    const float w = weights[static_cast<std::size_t>(picked[kept].id)];
    if (kept > 0 && (sum >= enough || w < p.min_p)) break;
    sum += static_cast<double>(w);
    ++kept;
  }
  const double target = u * sum;
  double running = 0;
  for (std::size_t i = 0; i < kept; ++i) {
    running += static_cast<double>(weights[static_cast<std::size_t>(picked[i].id)]);
    if (running > target) return picked[i].id;
  }
  return picked.front().id;
}

double mass(const std::vector<candidate>& picked, std::span<const float> weights) {
  double sum = 0;
  for (const candidate& c : picked)
    sum += static_cast<double>(weights[static_cast<std::size_t>(c.id)]);
  return sum;
}

// The most probable tokens, in order, whose mass is at least `enough` (all when rounding hides
// that). A histogram of the weights by the high bits of their float form finds where to cut, so
// only what may be in the nucleus is sorted.
void select_nucleus(std::span<const float> x, scratch& own, double enough) {
  constexpr int shift = 19;  // exponent and 4 bits of fraction; weights are in [0, 1]
  constexpr std::size_t buckets = (std::size_t{0x3F800000u} >> shift) + 1;
  std::array<double, buckets> mass_of{};
  const auto bucket = [](float w) {
    return std::min<std::size_t>(std::bit_cast<std::uint32_t>(w) >> shift, buckets - 1);
  };
  for (const float w : own.weights) mass_of[bucket(w)] += static_cast<double>(w);
  std::size_t cut = buckets;
  // The margin covers that these sums and the ordered ones round differently.
  for (double sum = 0; cut > 0 && sum <= enough * (1 + 1e-9);) sum += mass_of[--cut];
  own.picked.clear();
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (bucket(own.weights[i]) >= cut) own.picked.push_back({x[i], static_cast<token>(i)});
  }
  std::sort(own.picked.begin(), own.picked.end(), before);
}

token draw(std::span<const float> x,
           const peak& top,
           const sampling_parameters& p,
           std::uint64_t position,
           scratch& own) {
  const double u = uniform(p.seed, position);
  const std::size_t n = x.size();
  const bool cut = p.top_k > 0 && static_cast<std::size_t>(p.top_k) < n;
  if (cut) {
    select(x, static_cast<std::size_t>(p.top_k), own.picked);
    own.weights.resize(n);  // only the picked entries are written and read
    for (const candidate& c : own.picked) {
      own.weights[static_cast<std::size_t>(c.id)] =
          weight_of((c.value - top.value) / p.temperature);
    }
    return draw_picked(own.picked, own.weights, mass(own.picked, own.weights), p, u);
  }
  const double total = weigh(x, top.value, p.temperature, own.weights);
  if (p.top_p >= 1) return draw_all(own.weights, total, p.min_p, u);
  select_nucleus(x, own, static_cast<double>(p.top_p) * total);
  return draw_picked(own.picked, own.weights, total, p, u);
}

// Log-probabilities of the raw logits: of `out.id`, and of the `count` best.
void explain(std::span<const float> logits, float top, int count, scratch& own, sampled& out) {
  const double scale = static_cast<double>(top) + std::log(weigh(logits, top, 1.0f, own.weights));
  const auto logprob = [&](float value) {
    return static_cast<float>(static_cast<double>(value) - scale);
  };
  out.logprob = logprob(logits[static_cast<std::size_t>(out.id)]);
  if (count <= 0) return;
  select(logits, static_cast<std::size_t>(count), own.picked);
  out.top.reserve(own.picked.size());
  for (const candidate& c : own.picked) out.top.push_back({c.id, logprob(c.value)});
}

}  // namespace

sampled sample(std::span<const float> logits,
               const sampling_parameters& parameters,
               std::span<const token> prompt,
               std::span<const token> generated,
               std::uint64_t position) {
  sampled out;
  if (logits.empty()) return out;
  const peak raw = find_peak(logits);
  if (!raw.finite) {
    out.non_finite = true;
    return out;
  }
  scratch& own = buffers();
  std::span<const float> x = logits;
  peak top = raw;
  if (adjusts(parameters)) {
    own.adjusted.assign(logits.begin(), logits.end());
    collect_adjustments(parameters, prompt, generated, static_cast<int>(logits.size()),
                        own.adjustments);
    adjust(own.adjusted, own.adjustments);
    x = own.adjusted;
    top = find_peak(x);
  }
  const bool greedy = !(parameters.temperature > 0);
  out.id = greedy ? top.id : draw(x, top, parameters, position, own);
  if (parameters.logprobs >= 0) explain(logits, raw.value, parameters.logprobs, own, out);
  return out;
}

sampled score(std::span<const float> logits, token target, int logprobs) {
  sampled out;
  if (target < 0 || static_cast<std::size_t>(target) >= logits.size()) return out;
  const peak raw = find_peak(logits);
  if (!raw.finite) {
    out.non_finite = true;
    return out;
  }
  out.id = target;
  explain(logits, raw.value, logprobs, buffers(), out);
  return out;
}

}  // namespace foretoken::model
