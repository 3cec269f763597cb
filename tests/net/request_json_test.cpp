// SPDX-License-Identifier: Apache-2.0
#include "net/request_json.hpp"

#include <doctest/doctest.h>

using namespace foretoken;
using namespace foretoken::net;

namespace {

result<parsed_request> parse(const std::string& text, dialect how) {
  auto body = parse_json(text, {});
  if (!body) return body.error();
  return parse_generate(std::move(*body), how, {});
}
std::string completion(const std::string& more) {
  return "{\"prompt\":\"a\"" + (more.empty() ? "" : "," + more) + "}";
}
std::string chat(const std::string& more) {
  return "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]" +
         (more.empty() ? "" : "," + more) + "}";
}

}  // namespace

TEST_CASE("request_json: a bad parameter is refused by name") {
  struct row {
    const char* text;
    const char* field;
  };
  const row rows[] = {
      {"\"temperature\":-1", "temperature"},
      {"\"temperature\":2.1", "temperature"},
      {"\"temperature\":1e308", "temperature"},
      {"\"temperature\":1e999", "temperature"},
      {"\"temperature\":\"1\"", "temperature"},
      {"\"temperature\":true", "temperature"},
      {"\"temperature\":NaN", "temperature"},
      {"\"top_p\":0", "top_p"},
      {"\"top_p\":1.1", "top_p"},
      {"\"top_k\":-1", "top_k"},
      {"\"top_k\":1.5", "top_k"},
      {"\"min_p\":2", "min_p"},
      {"\"max_tokens\":0", "max_tokens"},
      {"\"max_tokens\":-1", "max_tokens"},
      {"\"max_tokens\":2147483648", "max_tokens"},
      {"\"max_tokens\":9223372036854775808", "max_tokens"},
      {"\"n\":0", "n"},
      {"\"n\":1000000", "n"},
      {"\"logit_bias\":{\"5\":101}", "logit_bias"},
      {"\"logit_bias\":{\"x\":1}", "logit_bias"},
      {"\"logit_bias\":{\"-1\":1}", "logit_bias"},
      {"\"logit_bias\":[]", "logit_bias"},
      {"\"stop\":\"\"", "stop"},
      {"\"stop\":[\"a\",\"\"]", "stop"},
      {"\"stop\":5", "stop"},
      {"\"seed\":18446744073709551616", "seed"},
      {"\"seed\":1.5", "seed"},
      {"\"presence_penalty\":3", "presence_penalty"},
      {"\"frequency_penalty\":-2.5", "frequency_penalty"},
      {"\"repetition_penalty\":\"1\"", "repetition_penalty"},
      {"\"repetition_penalty\":1e39", "repetition_penalty"},
      {"\"logprobs\":21", "logprobs"},
      {"\"echo\":1", "echo"},
      {"\"best_of\":2", "best_of"},
      {"\"suffix\":\"x\"", "suffix"},
      {"\"cache_salt\":1", "cache_salt"},
      {"\"stream\":\"yes\"", "stream"},
      {"\"stream_options\":{}", "stream_options"},
      {"\"deadline_ms\":5", "deadline_ms"},
      {"\"nonsense\":null", "nonsense"},
      {"\"messages\":[]", "messages"},
      {"\"response_format\":{\"type\":\"json_object\"}", "response_format"},
      {"\"user\":5", "user"},
      {"\"n\":1,\"n\":1", "n"},
  };
  for (const auto& row : rows) {
    CAPTURE(row.text);
    const auto got = parse(completion(row.text), dialect::completions);
    REQUIRE_FALSE(got);
    CHECK(got.error().field == row.field);
  }
  const row chat_rows[] = {
      {"\"top_logprobs\":2", "top_logprobs"},
      {"\"logprobs\":3", "logprobs"},
      {"\"tools\":[{}]", "tools"},
      {"\"prompt\":\"a\"", "prompt"},
      {"\"echo\":true", "echo"},
      {"\"store\":true", "store"},
      {"\"max_tokens\":1,\"max_completion_tokens\":1", "max_completion_tokens"},
  };
  for (const auto& row : chat_rows) {
    CAPTURE(row.text);
    const auto got = parse(chat(row.text), dialect::chat);
    REQUIRE_FALSE(got);
    CHECK(got.error().field == row.field);
  }
}

TEST_CASE("request_json: null and neutral values of what we lack are accepted") {
  const char* rows[] = {"\"best_of\":2,\"n\":2", "\"suffix\":null",
                        "\"user\":\"x\"",        "\"logprobs\":null",
                        "\"logprobs\":false",    "\"stop\":null",
                        "\"temperature\":null",  "\"response_format\":{\"type\":\"text\"}",
                        "\"model\":\"anything\""};
  for (const auto* row : rows) {
    CAPTURE(row);
    CHECK(parse(completion(row), dialect::completions));
  }
  const char* chat_rows[] = {
      "\"tools\":null",           "\"tools\":[]",      "\"parallel_tool_calls\":true",
      "\"store\":false",          "\"metadata\":null", "\"service_tier\":\"auto\"",
      "\"tool_choice\":\"none\"", "\"logprobs\":false"};
  for (const auto* row : chat_rows) {
    CAPTURE(row);
    CHECK(parse(chat(row), dialect::chat));
  }
}

TEST_CASE("request_json: an assistant's turn may be empty, nobody else's") {
  const auto with = [](const std::string& message) {
    return parse("{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}," + message + "]}",
                 dialect::chat);
  };
  for (const char* empty : {"{\"role\":\"assistant\",\"content\":null}",
                            "{\"content\":null,\"role\":\"assistant\",\"refusal\":null}",
                            "{\"role\":\"assistant\"}", "{\"role\":\"user\",\"content\":\"\"}"}) {
    CAPTURE(empty);
    const auto got = with(empty);
    REQUIRE(got);
    CHECK(std::get<actors::chat_prompt>(got->requests[0].prompt)[1].content.empty());
  }
  for (const char* bad :
       {"{\"role\":\"user\",\"content\":null}", "{\"role\":\"system\"}", "{\"content\":\"a\"}",
        "{\"role\":\"an unknown role that is much too long\",\"content\":\"a\"}"}) {
    CAPTURE(bad);
    const auto got = with(bad);
    REQUIRE_FALSE(got);
    CHECK(got.error().field == "messages");
  }
}

TEST_CASE("request_json: a long name of the client's is cut between characters") {
  const std::string name = std::string(63, 'x') + "\xC3\xA9";
  const auto got = parse(completion("\"" + name + "\":1"), dialect::completions);
  REQUIRE_FALSE(got);
  CHECK(got.error().field == std::string(63, 'x'));
  CHECK(got.error().message == "unknown parameter " + std::string(63, 'x'));
  CHECK(clipped(std::string(62, 'x') + "\xC3\xA9y") == std::string(62, 'x') + "\xC3\xA9");
}

TEST_CASE("request_json: defaults, seeds and prompts") {
  CHECK(parse(completion(""), dialect::completions)->requests[0].max_tokens == 16);
  CHECK(parse(chat(""), dialect::chat)->requests[0].max_tokens == 2147483647);
  CHECK(parse(completion("\"max_tokens\":0,\"echo\":true"), dialect::completions));
  const auto seeded = parse(completion("\"seed\":18446744073709551615"), dialect::completions);
  CHECK(seeded->requests[0].sampling.seed == 18446744073709551615u);
  CHECK(seeded->requests[0].seed_given);
  CHECK(parse("{\"prompt\":[\"a\",\"b\"]}", dialect::completions)->requests.size() == 2);
  CHECK(parse("{\"prompt\":[[1,2],[3]]}", dialect::completions)->requests.size() == 2);
  CHECK(std::get<actors::token_prompt>(
            parse("{\"prompt\":[1,2]}", dialect::completions)->requests[0].prompt)
            .size() == 2);
  for (const char* bad : {"{\"prompt\":[]}", "{\"prompt\":[-1]}", "{\"prompt\":[2147483648]}",
                          "{\"prompt\":5}", "{\"prompt\":[1,\"a\"]}", "{\"prompt\":[[]]}", "{}"}) {
    CAPTURE(bad);
    const auto got = parse(bad, dialect::completions);
    REQUIRE_FALSE(got);
    CHECK(got.error().field == "prompt");
  }
  const auto nul = parse("{\"prompt\":\"a\\u0000b\"}", dialect::completions);
  CHECK(std::get<std::string>(nul->requests[0].prompt) == std::string("a\0b", 3));
}

TEST_CASE("json: text that breaks the format is refused") {
  const std::string deep = std::string(33, '[') + std::string(33, ']');
  const std::string rows[] = {"",
                              "{",
                              "{\"a\":1,}",
                              "{\"a\":NaN}",
                              "{\"a\":1} {}",
                              "\xEF\xBB\xBF{}",
                              std::string("{}\0", 3),
                              "{\"a\":\"\xff\"}",
                              "{\"a\":\"\\ud800\"}",
                              "{\"a\":\"\\udc00\"}",
                              "{\"a\":{\"b\":1,\"b\":2}}",
                              "{'a':1}",
                              "// c\n{}",
                              deep,
                              "{\"a\":\"\xed\xa0\x80\"}",
                              "{\"a\":01}",
                              "{\"a\":\"\x01\"}"};
  for (const auto& row : rows) {
    CAPTURE(row);
    CHECK_FALSE(parse_json(row, {}));
  }
  CHECK(parse_json(std::string(32, '[') + std::string(32, ']'), {}));
  CHECK_FALSE(parse_json("[1,2,3,4]", {32, 4}));
}
