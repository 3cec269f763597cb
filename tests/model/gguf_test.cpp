// SPDX-License-Identifier: Apache-2.0
// GGUF from memory: what is valid, what is refused, and that no bytes at all can crash the parser.
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
