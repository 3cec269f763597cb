// SPDX-License-Identifier: Apache-2.0
// Speed of encoding and of making a tokenizer, on a seeded synthetic vocabulary of 49k tokens, so
// that it needs no model file. `--smoke` does one short round.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <set>

#include "tokenizer/byte_alphabet.hpp"
#include "tokenizer/detokenizer.hpp"

namespace tk = foretoken::tokenizer;
using stopwatch = std::chrono::steady_clock;

namespace {

constexpr unsigned seed = 42;
constexpr std::size_t vocabulary = 49152;

double milliseconds_since(stopwatch::time_point begin) {
  return std::chrono::duration<double, std::milli>(stopwatch::now() - begin).count();
}

// Words of two to four letters grow into longer ones, as a trained vocabulary does.
tk::vocabulary_spec synthetic_spec() {
  tk::vocabulary_spec spec;
  spec.pre = tk::pre_tokenizer::smollm;
  std::set<std::string> known;
  for (int byte = 0; byte < 256; ++byte) {
    spec.pieces.push_back(tk::byte_to_alphabet(static_cast<std::uint8_t>(byte)));
    known.insert(spec.pieces.back());
  }
  std::mt19937 random(seed);
  std::vector<std::string> words;
  for (char c = 'a'; c <= 'z'; ++c) words.emplace_back(1, c);
  words.push_back(tk::byte_to_alphabet(' '));
  while (spec.pieces.size() < vocabulary) {
    const std::string left = words[random() % words.size()];
    const std::string right = words[random() % std::min<std::size_t>(words.size(), 400)];
    if (left.size() + right.size() > 12 || right.size() > 1 + left.size()) continue;
    if (!known.insert(left + right).second) continue;
    spec.merges.emplace_back(left, right);
    spec.pieces.push_back(left + right);
    words.push_back(left + right);
  }
  spec.kinds.assign(spec.pieces.size(), tk::token_kind::normal);
  return spec;
}

std::string prose(std::size_t bytes) {
  std::mt19937 random(seed + 1);
  std::string text;
  while (text.size() < bytes) {
    for (auto n = 1 + random() % 9; n > 0; --n)
      text.push_back(static_cast<char>('a' + random() % 26));
    text += random() % 12 == 0 ? ". " : " ";
  }
  text.resize(bytes);
  return text;
}

struct spread {
  double median, p99;
};

template <class Work>
spread measure(int rounds, Work work) {
  work();  // warm-up: one round
  std::vector<double> times;
  for (int i = 0; i < rounds; ++i) {
    const auto begin = stopwatch::now();
    work();
    times.push_back(milliseconds_since(begin));
  }
  std::sort(times.begin(), times.end());
  return {times[times.size() / 2], times[(times.size() * 99) / 100]};
}

}  // namespace

int main(int argc, char** argv) {
  const bool smoke = argc > 1 && std::strcmp(argv[1], "--smoke") == 0;
  const int rounds = smoke ? 2 : 30;
  const std::string text = prose(smoke ? 20'000 : 1'000'000);
  const tk::vocabulary_spec spec = synthetic_spec();
  std::printf("tokenizer_bench: seed %u, synthetic vocabulary of %zu, compiler %s, %s\n", seed,
              spec.pieces.size(), __VERSION__, smoke ? "smoke" : "full");

  std::shared_ptr<const tk::tokenizer> made;
  const spread making = measure(smoke ? 1 : 10, [&] {
    auto outcome = tk::tokenizer::make(spec);
    if (!outcome) std::abort();
    made = *outcome;
  });
  std::size_t tokens = 0;
  const spread whole = measure(rounds, [&] { tokens = made->encode(text).size(); });
  const spread repeated = measure(rounds, [&] {
    const auto ids = made->encode(std::string(text.size(), 'a'));
    if (ids.empty()) std::abort();
  });
  const std::size_t texts = text.size() / 100;
  const spread shorts = measure(rounds, [&] {
    for (std::size_t i = 0; i < texts; ++i) {
      if (made->encode(std::string_view(text).substr(i * 100, 100)).empty()) std::abort();
    }
  });
  const auto ids = made->encode(text);
  std::string back;
  const spread streaming = measure(rounds, [&] {
    back.clear();
    tk::detokenizer stream(made);
    for (const foretoken::token id : ids) stream.push(id, back);
    stream.finish(back);
  });
  if (back != text) {
    std::puts("the text did not come back");
    return 1;
  }
  const double megabytes = static_cast<double>(text.size()) / 1e6;
  const auto rate = [&](const spread& s) { return megabytes / s.median * 1e3; };
  std::printf("make               median %8.2f ms   p99 %8.2f ms\n", making.median, making.p99);
  std::printf("encode prose       median %8.2f ms   p99 %8.2f ms   %6.1f MB/s   %.2f bytes/token\n",
              whole.median, whole.p99, rate(whole),
              static_cast<double>(text.size()) / static_cast<double>(tokens));
  std::printf("encode one letter  median %8.2f ms   p99 %8.2f ms   %6.1f MB/s\n", repeated.median,
              repeated.p99, rate(repeated));
  std::printf("encode 100 chars   median %8.2f us a text\n",
              shorts.median * 1e3 / static_cast<double>(texts));
  std::printf("detokenize stream  median %8.2f ms   p99 %8.2f ms   %6.1f MB/s\n", streaming.median,
              streaming.p99, rate(streaming));
  return 0;
}
