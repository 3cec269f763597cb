// SPDX-License-Identifier: Apache-2.0
// GGUF from memory: what is valid, what is refused, and that no bytes at all can crash the parser.
#include <sys/mman.h>

#include <algorithm>
#include <functional>
#include <random>

#include <doctest/doctest.h>

#include "tests/model/gguf_writer.hpp"
#include "tests/model/spoiled_gguf.hpp"

using namespace foretoken;
using namespace foretoken::model;

TEST_CASE("gguf: the small file is valid in versions 2 and 3") {
  for (const std::uint32_t version : {2u, 3u}) {
    auto file = small_gguf();
    file.version = version;
    const auto read = read_whole_gguf(file.bytes());
    if (!read) FAIL(to_string(read.error()));
  }
}

TEST_CASE("gguf: every spoiled file is refused by name") {
  for (const spoiled_file& one : spoiled_gguf_files()) {
    CAPTURE(one.what);
    const auto read = read_whole_gguf(one.bytes);
    REQUIRE(!read);
    CHECK(errc_name(read.error().code) == std::string(errc_name(one.code)));
    CHECK(read.error().field == one.field);
  }
}

// A file of holes behind its header, as a sparse one is read: bytes that take no memory.
class sparse_file {
 public:
  explicit sparse_file(const std::vector<std::byte>& header) {
    void* const start = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    REQUIRE(start != MAP_FAILED);
    start_ = static_cast<std::byte*>(start);
    std::copy(header.begin(), header.end(), start_);
  }
  sparse_file(const sparse_file&) = delete;
  sparse_file& operator=(const sparse_file&) = delete;
  ~sparse_file() { ::munmap(start_, bytes_); }
  std::span<const std::byte> bytes() const { return {start_, bytes_}; }

 private:
  static constexpr std::size_t bytes_ = std::size_t{64} << 30;
  std::byte* start_;
};

TEST_CASE("gguf: counts that only a file of holes has room for are refused by name") {
  struct row {
    std::string field;
    std::function<void(written_gguf&)> claim;
  };
  constexpr std::uint64_t many = 1'000'000'000;
  const auto list = [](std::uint32_t element) {
    return [=](written_gguf& g) {
      g.keys.emplace_back("x", written_value{9, byte_writer().put(element).put(many).bytes});
    };
  };
  const row table[] = {
      {"tensor_count", [](written_gguf& g) { g.claimed_tensors = many; }},
      {"metadata_kv_count", [](written_gguf& g) { g.claimed_keys = many; }},
      {"x", list(0)},  // bytes
      {"x", list(8)},  // texts: empty ones, in a hole
  };
  for (const row& entry : table) {
    CAPTURE(entry.field);
    written_gguf file;
    entry.claim(file);
    const sparse_file sparse(file.bytes());
    const auto read = parse_gguf(sparse.bytes());
    REQUIRE(!read);
    CHECK(read.error().code == errc::corrupt);
    CHECK(read.error().field == entry.field);
  }
}

TEST_CASE("gguf: numbers of a vocabulary are not widened without a bound") {
  written_gguf file;
  const std::vector<std::uint8_t> kinds((std::size_t{1} << 24) + 1, 1);
  file.set("kinds", list_of<std::uint8_t>(0, kinds));
  const auto bytes = file.bytes();
  const auto contents = parse_gguf(bytes);
  REQUIRE(contents);
  const auto read = gguf_integers(*contents, "kinds");
  REQUIRE(!read);
  CHECK(read.error().field == "kinds");
}

TEST_CASE("gguf: a byte token is read in its exact form") {
  auto good = small_gguf();
  good.set("tokenizer.ggml.model", words("llama"));
  good.set("tokenizer.ggml.scores", list_of<float>(6, std::vector<float>(8)));
  good.set("tokenizer.ggml.tokens",
           list_of_words({"</s>", "<0x41>", "b", "c", "d", "e", "f", "g"}));
  good.set("tokenizer.ggml.token_type", list_of<std::int32_t>(5, {3, 6, 1, 1, 1, 1, 1, 1}));
  CHECK(read_whole_gguf(good.bytes()));
}

TEST_CASE("gguf: a file cut anywhere is refused") {
  std::size_t header = 0;
  const auto bytes = small_gguf().bytes(&header);
  const std::span<const std::byte> all(bytes);
  for (std::size_t length = 0; length < header; ++length) {
    CAPTURE(length);
    // A copy of exactly this length, so that a sanitizer sees the first byte beyond it.
    const std::vector<std::byte> cut(all.begin(),
                                     all.begin() + static_cast<std::ptrdiff_t>(length));
    REQUIRE(!read_whole_gguf(cut));
  }
  std::mt19937 random(1);
  for (int i = 0; i < 200; ++i) {
    const auto length = header + random() % (bytes.size() - header - 32);
    const std::vector<std::byte> cut(all.begin(),
                                     all.begin() + static_cast<std::ptrdiff_t>(length));
    REQUIRE(!read_whole_gguf(cut));
  }
}
