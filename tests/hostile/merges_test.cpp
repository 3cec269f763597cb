// SPDX-License-Identifier: Apache-2.0
// Entry 40 of the catalogue. A program of its own: what must not happen is that it takes minutes,
// so its time limit (tests/hostile/CMakeLists.txt) is the check; loading squared would be 4e10
// steps.
#include <doctest/doctest.h>

#include "model/gguf_model.hpp"
#include "model/hugging_face.hpp"
#include "tests/model/gguf_writer.hpp"
#include "tests/model/spoiled_hugging_face.hpp"
#include "tokenizer/tokenizer.hpp"

using namespace foretoken;

TEST_CASE("merges: 200,000 equal ones load from either format, in time that does not square") {
  constexpr std::size_t merges = 200'000;
  SUBCASE("GGUF") {
    auto file = model::small_gguf();
    file.set("tokenizer.ggml.merges",
             model::list_of_words(std::vector<std::string>(merges, "a b")));
    const auto bytes = file.bytes();
    const auto contents = model::parse_gguf(bytes);
    REQUIRE(contents);
    const auto shape = model::gguf_shape(*contents);
    REQUIRE(shape);
    auto spec = model::gguf_vocabulary(*contents, *shape);
    REQUIRE(spec);
    const auto words = tokenizer::tokenizer::make(std::move(*spec));
    REQUIRE(words);
    CHECK((*words)->encode("abab", {.add_special = false}) == std::vector<token>{3, 3});
  }
  SUBCASE("tokenizer.json") {
    auto document = model::tokenizer_document();
    document["model"]["merges"] = std::vector<std::string>(merges, "a b");
    const auto text = document.dump();
    auto parsed = model::parse_json(std::as_bytes(std::span(text)), "tokenizer.json");
    REQUIRE(parsed);
    model::hyperparameters shape;
    shape.vocabulary = 4;
    auto spec = model::hugging_face_vocabulary(
        {model::json::object(), model::json::object(), std::move(*parsed), model::json::object()},
        shape);
    REQUIRE(spec);
    const auto words = tokenizer::tokenizer::make(std::move(*spec));
    REQUIRE(words);
    CHECK((*words)->encode("abab", {.add_special = false}) == std::vector<token>{3, 3});
  }
}
