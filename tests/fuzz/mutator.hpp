// SPDX-License-Identifier: Apache-2.0
#pragma once
// Spoils good inputs at random, from a seed: the same seed spoils the same way everywhere.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace foretoken::test {

class mutator {
 public:
  // `words`: pieces that mean something to the parser, put in now and then.
  mutator(std::uint64_t seed, std::vector<std::string> words);

  std::uint64_t next() noexcept;
  std::size_t below(std::size_t n) noexcept { return static_cast<std::size_t>(next() % n); }
  // One to four changes of `good`: bytes, numbers, ranges removed, doubled or moved, a cut end.
  std::string spoil(std::string good);
  // `whole` in pieces of random lengths; none is empty.
  std::vector<std::string_view> split(std::string_view whole);

 private:
  void change(std::string& text);
  void overwrite_number(std::string& text);

  std::uint64_t state_;
  std::vector<std::string> words_;
};

// FORETOKEN_FUZZ_ROUNDS=1000000 looks longer; FORETOKEN_FUZZ_SEED looks elsewhere.
std::uint64_t fuzz_rounds(std::uint64_t otherwise);
std::uint64_t fuzz_seed();

// Bytes that `operator new` handed to this thread so far. One request above allocation_bytes_max
// ends the test program: no input may ask for it.
inline constexpr std::size_t allocation_bytes_max = std::size_t{64} << 20;
std::uint64_t allocated_bytes() noexcept;

}  // namespace foretoken::test
