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
