// SPDX-License-Identifier: Apache-2.0
// Tensors that no role asks for, in checkpoints that are good without them.
#include "model/tensor_roles.hpp"

#include <doctest/doctest.h>

#include "model/hugging_face.hpp"
#include "model/safetensors.hpp"

using namespace foretoken;
using namespace foretoken::model;

namespace {

aligned_bytes content(const std::string& name) {
  auto read = read_file(FORETOKEN_TEST_DATA "/reference/architectures/" + name, 1u << 30);
  REQUIRE(read);
  return std::move(*read);
}

// What becomes of a checkpoint that also has the tensor `name`.
status assemble_with(const std::string& checkpoint, const std::string& name) {
  const auto config = content(checkpoint + "/config.json");
  const auto shape = hugging_face_shape(*parse_json(config.bytes(), "config.json"));
  REQUIRE(shape);
  const auto weights = content(checkpoint + "/model.safetensors");
  tensor_store store;
  REQUIRE(parse_safetensors(weights.bytes(), "model.safetensors", store));
  REQUIRE(store.add(name, {dtype::f32, "F32", {1}, weights.bytes().first(4)}));
  std::vector<aligned_bytes> owned;
  FORETOKEN_TRY(assemble_hugging_face(store, *shape, owned));
  return {};
}

}  // namespace

TEST_CASE("tensor_roles: a tensor of a layer that nothing computes with is refused by name") {
  struct row {
    const char *checkpoint, *name;
  };
  for (const row& entry :
       {row{"llama", "model.layers.0.self_attn.k_proj.bias"},
        row{"llama", "model.layers.1.self_attn.q_proj.lora_A.weight"},
        row{"llama", "model.layers.99.input_layernorm.weight"},
        row{"mistral", "model.layers.0.mlp.down_proj.bias"}, row{"gpt2", "transformer.h.0.x"}}) {
    CAPTURE(entry.name);
    const auto outcome = assemble_with(entry.checkpoint, entry.name);
    REQUIRE_FALSE(outcome);
    CHECK(outcome.error().code == errc::unsupported);
    CHECK(outcome.error().field == entry.name);
  }
}

TEST_CASE("tensor_roles: saved constants, and what lies outside the layers, do no harm") {
  struct row {
    const char *checkpoint, *name;
  };
  for (const row& entry :
       {row{"llama", "model.layers.0.self_attn.rotary_emb.inv_freq"},
        row{"gpt2", "transformer.h.0.attn.bias"}, row{"gpt2", "transformer.h.0.attn.masked_bias"},
        row{"gemma3", "vision_tower.encoder.layers.0.mlp.fc1.weight"}}) {
    CAPTURE(entry.name);
    CHECK(assemble_with(entry.checkpoint, entry.name));
  }
}
