// SPDX-License-Identifier: Apache-2.0
#include "actors/choice_stream.hpp"

#include <doctest/doctest.h>

#include "fake_model.hpp"

using namespace foretoken;
using namespace foretoken::actors;

namespace {

struct outcome {
  std::string text;
  std::vector<token> ids;
  std::vector<token_logprob> logprobs;
  bool stopped = false;
};

outcome stream(const generate_request& request, const std::vector<token>& ids) {
  choice_stream choice(testing::fake_words(), request);
  outcome all;
  token_event out;
  for (const auto id : ids) {
    model::sampled one;
    one.id = id;
    one.logprob = -0.5f;
    if (choice.push(one, out)) {
      all.stopped = true;
      break;
    }
  }
  if (!all.stopped) choice.finish(out);
  all.text = out.text;
  all.ids = out.ids;
  all.logprobs = out.logprobs;
  return all;
}

std::vector<token> bytes(const std::string& text) {
  std::vector<token> ids;
  for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

}  // namespace

TEST_CASE("choice_stream: text comes out whole characters at a time") {
  generate_request request;
  choice_stream choice(testing::fake_words(), request);
  token_event out;
  for (const char c : std::string("\xE4\xB8")) {
    model::sampled one;
    one.id = static_cast<unsigned char>(c);
    CHECK_FALSE(choice.push(one, out));
    CHECK(out.text.empty());
  }
  model::sampled last;
  last.id = 0xAD;
  CHECK_FALSE(choice.push(last, out));
  CHECK(out.text == "\xE4\xB8\xAD");
}

TEST_CASE("choice_stream: pending bytes come out as U+FFFD at the end") {
  CHECK(stream({}, bytes("a\xE4")).text == "a\xEF\xBF\xBD");
}

TEST_CASE("choice_stream: a stop string cuts, whatever tokens it spans") {
  generate_request request;
  request.stop = {"STOP"};
  CHECK(stream(request, bytes("abSTOPcd")).text == "ab");
  CHECK(stream(request, bytes("abSTOPcd")).stopped);
  CHECK(stream(request, bytes("abSTO")).text == "abSTO");
  CHECK_FALSE(stream(request, bytes("abSTO")).stopped);
}

TEST_CASE("choice_stream: control tokens leave no text") {
  CHECK(stream({}, {'a', testing::end_token, 'b'}).text == "ab");
}

TEST_CASE("choice_stream: logprobs carry offsets in characters and leave with their text") {
  generate_request request;
  request.sampling.logprobs = 0;
  const auto all = stream(request, bytes("a\xC3\xA9z"));
  REQUIRE(all.logprobs.size() == 4);
  CHECK(all.logprobs[0].text_offset == 0);
  CHECK(all.logprobs[1].text_offset == 1);
  CHECK(all.logprobs[2].text_offset == 2);  // the second byte of the same character
  CHECK(all.logprobs[3].text_offset == 2);
  CHECK(all.logprobs[3].text == "z");
}

TEST_CASE("choice_stream: tokens of a stop string give no logprobs") {
  generate_request request;
  request.sampling.logprobs = 0;
  request.stop = {"XY"};
  const auto all = stream(request, bytes("abXYc"));
  CHECK(all.text == "ab");
  CHECK(all.logprobs.size() == 2);
}

TEST_CASE("choice_stream: a token's bytes are its own, its text whole characters") {
  generate_request request;
  request.sampling.logprobs = 1;
  choice_stream choice(testing::fake_words(), request);
  token_event out;
  model::sampled one;
  one.id = 0xC3;
  one.top = {{0xA9, -0.1f}, {testing::end_token, -0.2f}};
  choice.push(one, out);
  choice.finish(out);
  REQUIRE(out.logprobs.size() == 1);
  CHECK(out.logprobs[0].text == "\xEF\xBF\xBD");
  CHECK(out.logprobs[0].bytes == "\xC3");
  REQUIRE(out.logprobs[0].top.size() == 3);
  CHECK(out.logprobs[0].top[0].bytes == "\xA9");
  CHECK(out.logprobs[0].top[1].bytes == "<end>");
  CHECK(out.logprobs[0].top[2].bytes == "\xC3");
}

TEST_CASE("choice_stream: an echoed prompt leaves in one piece with all its scores") {
  generate_request request;
  request.sampling.logprobs = 0;
  const auto prompt = bytes("a\xC3\xA9z");
  const auto scored = [](token id) {
    model::sampled one;
    one.id = id;
    one.logprob = -2;
    return one;
  };
  choice_stream choice(testing::fake_words(), request);
  token_event out;
  choice.echo(prompt, "a\xC3\xA9z", out);
  choice.echo_scores(prompt, {scored(prompt[1]), scored(prompt[2])}, out);
  CHECK(out.text.empty());
  CHECK(out.logprobs.empty());
  choice.echo_scores(prompt, {scored(prompt[3])}, out);
  CHECK(out.text == "a\xC3\xA9z");
  CHECK(out.ids == prompt);
  REQUIRE(out.logprobs.size() == 4);
  CHECK_FALSE(out.logprobs[0].logprob);
  CHECK(out.logprobs[3].logprob == -2);
  CHECK(out.logprobs[3].text_offset == 2);
  choice.push(scored('!'), out);
  REQUIRE(out.logprobs.size() == 5);
  CHECK(out.logprobs[4].text_offset == 3);

  SUBCASE("one token has nothing to wait for") {
    choice_stream lone(testing::fake_words(), request);
    token_event piece;
    lone.echo({'a'}, "a", piece);
    CHECK(piece.text == "a");
    CHECK(piece.logprobs.size() == 1);
  }
  SUBCASE("without log-probabilities it leaves at once") {
    choice_stream plain(testing::fake_words(), {});
    token_event piece;
    plain.echo(prompt, "a\xC3\xA9z", piece);
    CHECK(piece.text == "a\xC3\xA9z");
  }
  SUBCASE("tokens that are no text of it do not shift the offsets") {
    choice_stream begun(testing::fake_words(), request);
    token_event piece;
    begun.echo({testing::end_token, 'a', 'b'}, "ab", piece);
    begun.echo_scores({testing::end_token, 'a', 'b'}, {scored('a'), scored('b')}, piece);
    REQUIRE(piece.logprobs.size() == 3);
    CHECK(piece.logprobs[0].text_offset == 0);
    CHECK(piece.logprobs[1].text_offset == 0);
    CHECK(piece.logprobs[2].text_offset == 1);
  }
}
