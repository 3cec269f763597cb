// SPDX-License-Identifier: Apache-2.0
// Entry 28 of the catalogue: a file whose numbers are no numbers. It is well-formed, so it loads;
// the first logits tell.
#include <doctest/doctest.h>

#include <bit>
#include <cstring>
#include <limits>

#include "actors/handles.hpp"
#include "tests/actors/fake_model.hpp"
#include "tests/hostile/temporary_folder.hpp"
#include "tests/model/gguf_writer.hpp"

using namespace foretoken;
using namespace foretoken::actors;

namespace {

// Every weight of the small model is `value`.
std::vector<std::byte> filled_gguf(float value) {
  const auto file = model::small_gguf();
  auto bytes = file.bytes();
  auto* at = bytes.data() + (bytes.size() - file.data_bytes);
  for (std::uint64_t i = 0; i < file.data_bytes; i += sizeof value) {
    std::memcpy(at + i, &value, sizeof value);
  }
  return bytes;
}

std::unique_ptr<engine> start_filled(const test::temporary_folder& folder, float value) {
  options chosen;
  chosen.model = folder.write("model.gguf", filled_gguf(value));
  chosen.cpu.kv_bytes = 1u << 20;
  chosen.cpu.threads = 1;
  auto started = engine::start(chosen);
  if (!started) FAIL(to_string(started.error()));
  return std::move(started).value();
}

event answer_of(engine& running) {
  const auto sink = std::make_shared<testing::recorder>();
  generate_request request;
  request.prompt = token_prompt{1, 2, 3};
  request.max_tokens = 4;
  request.sampling.temperature = 0;
  REQUIRE(running.submit(std::move(request), sink));
  REQUIRE(sink->wait(1));
  CHECK(sink->terminal() == 1);
  return sink->events().back();
}

}  // namespace

TEST_CASE(
    "weights: a model of NaN or infinities answers with errors and is not ready after three") {
  const test::temporary_folder folder("weights");
  for (const float value :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    CAPTURE(value);
    const auto running = start_filled(folder, value);
    CHECK(running->ready());
    for (int i = 0; i < 3; ++i) {
      const auto last = answer_of(*running);
      REQUIRE(std::holds_alternative<error_event>(last.what));
      const auto& failure = std::get<error_event>(last.what).failure;
      CHECK(failure.code == errc::device);
      CHECK(failure.field == "model");
      CHECK(running->ready() == (i < 2));
    }
    CHECK(running->healthy());  // a restart would not help
    CHECK(running->metrics().non_finite_logits.value() == 3);
    CHECK(running->metrics().executor_restarts.value() == 0);
  }
}

TEST_CASE("weights: a model of zeros answers") {
  const test::temporary_folder folder("zeros");
  const auto running = start_filled(folder, 0);
  CHECK(std::holds_alternative<done_event>(answer_of(*running).what));
  CHECK(running->ready());
}
