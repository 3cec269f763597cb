// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/mutator.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace foretoken::test {
namespace {

std::uint64_t setting(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

constexpr std::size_t text_bytes_max = std::size_t{1} << 16;  // mutations must not grow for ever

}  // namespace

mutator::mutator(std::uint64_t seed, std::vector<std::string> words)
    : state_(seed * 0x9E3779B97F4A7C15u + 1), words_(std::move(words)) {}

std::uint64_t mutator::next() noexcept {
  std::uint64_t x = state_ += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

void mutator::overwrite_number(std::string& text) {
  constexpr std::uint64_t edges[] = {
      0,          1,          2,          127,        128,
      255,        256,        65535,      65536,      0x7FFFFFFF,
      0x80000000, 0xFFFFFFFF, 1ull << 32, 1ull << 62, (1ull << 63) - 1,
      1ull << 63, ~0ull - 7,  ~0ull};
  const std::uint64_t value = edges[below(std::size(edges))];
  const std::size_t width = std::size_t{1} << below(4);
  if (text.size() < width) return;
  std::memcpy(text.data() + below(text.size() - width + 1), &value, width);
}

void mutator::change(std::string& text) {
  if (text.empty()) text = "x";
  const std::size_t at = below(text.size());
  const std::size_t count = std::min(text.size() - at, 1 + below(16));
  switch (below(9)) {
    case 0: text[at] = static_cast<char>(next()); break;
    case 1: text[at] = static_cast<char>(text[at] ^ (1 << below(8))); break;
    case 2: overwrite_number(text); break;
    case 3: text.erase(at, count); break;
    case 4: text.insert(below(text.size()), text.substr(at, count)); break;
    case 5:
      std::rotate(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(at), text.end());
      break;
    case 6: text.resize(at); break;
    default: {
      if (words_.empty()) break;
      const std::string& word = words_[below(words_.size())];
      if (below(2) == 0) {
        text.insert(at, word);
      } else {
        text.replace(at, count, word);
      }
    }
  }
  if (text.size() > text_bytes_max) text.resize(text_bytes_max);
}

std::string mutator::spoil(std::string good) {
  for (std::size_t changes = 1 + below(4); changes > 0; --changes) change(good);
  return good;
}

std::vector<std::string_view> mutator::split(std::string_view whole) {
  std::vector<std::string_view> pieces;
  const std::size_t longest = 1 + below(below(2) == 0 ? 4 : 4096);
  while (!whole.empty()) {
    const std::size_t count = std::min(whole.size(), 1 + below(longest));
    pieces.push_back(whole.substr(0, count));
    whole.remove_prefix(count);
  }
  return pieces;
}

std::uint64_t fuzz_rounds(std::uint64_t otherwise) {
  return setting("FORETOKEN_FUZZ_ROUNDS", otherwise);
}

std::uint64_t fuzz_seed() {
  return setting("FORETOKEN_FUZZ_SEED", 1);
}

}  // namespace foretoken::test
