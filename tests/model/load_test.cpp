// SPDX-License-Identifier: Apache-2.0
// The tiny checkpoints of six architectures, with both key styles of config.json.
#include <cmath>
#include <filesystem>
#include <string>

#include <doctest/doctest.h>
#include <unistd.h>

#include "model/file_bytes.hpp"
#include "model/hugging_face.hpp"
#include "model/model_file.hpp"

using namespace foretoken;
using namespace foretoken::model;
namespace fs = std::filesystem;

namespace {

const fs::path architectures = fs::path(FORETOKEN_TEST_DATA) / "reference" / "architectures";

// A copy of a checkpoint whose files a test may replace.
class copied_folder {
 public:
  explicit copied_folder(const std::string& name)
      : path_(fs::temp_directory_path() / ("foretoken_load_" + std::to_string(::getpid()) + name)) {
    fs::remove_all(path_);
    fs::create_directories(path_);
    for (const auto& file : fs::directory_iterator(architectures / name)) {
      fs::create_symlink(fs::absolute(file.path()), path_ / file.path().filename());
    }
  }
  copied_folder(const copied_folder&) = delete;
  copied_folder& operator=(const copied_folder&) = delete;
  ~copied_folder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  const fs::path& path() const { return path_; }
  void replace(const char* file, const char* by) {
    fs::remove(path_ / file);
    fs::create_symlink(fs::absolute(path_ / by), path_ / file);
  }

 private:
  fs::path path_;
};

std::shared_ptr<const model_file> load(const fs::path& path) {
  auto loaded = model_file::load(path);
  if (!loaded) FAIL(to_string(loaded.error()));
  return *loaded;
}

bool same_shape(const hyperparameters& a, const hyperparameters& b) {
  return a.arch == b.arch && a.layers == b.layers && a.width == b.width && a.heads == b.heads &&
         a.kv_heads == b.kv_heads && a.head_dim == b.head_dim && a.ffn == b.ffn &&
         a.vocabulary == b.vocabulary && a.context == b.context && a.ropes == b.ropes &&
         a.attention == b.attention && a.query_scale == b.query_scale &&
         a.tied_head == b.tied_head && a.embedding_scale == b.embedding_scale &&
         a.norm_epsilon == b.norm_epsilon;
}

}  // namespace

TEST_CASE("load: both key styles of config.json say the same") {
  for (const char* name : {"llama", "mistral", "qwen2", "qwen3", "gemma3", "gpt2"}) {
    CAPTURE(name);
    const auto published = load(architectures / name);
    copied_folder folder(name);
    folder.replace("config.json", "config_v5.json");
    const auto newer = load(folder.path());
    CHECK(same_shape(published->shape, newer->shape));
    CHECK(architecture_name(published->shape.arch) == std::string(name));
    CHECK(published->tensors.layers.size() == static_cast<std::size_t>(published->shape.layers));
    CHECK(published->vocabulary.pieces.size() ==
          static_cast<std::size_t>(published->shape.vocabulary));
    CHECK(!published->shape.rope_neighbours);
    CHECK(published->format == "safetensors");
    CHECK(published->fingerprint != newer->fingerprint);
  }
}

TEST_CASE("load: llama has scaled rotation, BOS and its own head") {
  const auto file = load(architectures / "llama");
  const auto& shape = file->shape;
  CHECK(!shape.tied_head);
  REQUIRE(shape.ropes.size() == 1);
  REQUIRE(shape.ropes[0].frequency.size() == 8);
  CHECK(shape.ropes[0].frequency[0] == 1.0f);  // a wave of 6.3 tokens, shorter than 32 / 4: kept
  const float last = static_cast<float>(std::pow(1e4, -14.0 / 16) / 8);  // a long wave: stretched
  CHECK(shape.ropes[0].frequency[7] == doctest::Approx(static_cast<double>(last)));
  CHECK(file->vocabulary.add_bos);
  CHECK(file->vocabulary.bos == 0);
  CHECK(file->vocabulary.eos == 1);
  CHECK(file->vocabulary.pre == tokenizer::pre_tokenizer::llama3);
  CHECK(file->vocabulary.end_of_generation == std::vector<token>{1});
  CHECK(file->vocabulary.kinds[0] == tokenizer::token_kind::control);
}

TEST_CASE("load: mistral sees a window in every layer") {
  const auto file = load(architectures / "mistral");
  CHECK(file->shape.head_dim == 24);
  for (const auto& layer : file->shape.attention) CHECK(layer.window == 8);
  CHECK(file->vocabulary.pre == tokenizer::pre_tokenizer::gpt2);
}

TEST_CASE("load: qwen2 has biases and ignores a window that is switched off") {
  const auto file = load(architectures / "qwen2");
  for (const auto& layer : file->shape.attention) CHECK(layer.window == 0);
  for (const auto& layer : file->tensors.layers) {
    CHECK(layer.q_bias.columns == 64);
    CHECK(layer.k_bias.columns == 16);
    CHECK(layer.o_bias.empty());
  }
  CHECK(file->shape.tied_head);
  CHECK(file->tensors.head.bytes.data() == file->tensors.embedding.bytes.data());
  CHECK(file->vocabulary.normalise_nfc);
  CHECK(file->vocabulary.pre == tokenizer::pre_tokenizer::qwen2);
  CHECK(!file->vocabulary.add_bos);
  CHECK(file->vocabulary.end_of_generation == std::vector<token>{0, 2});
}

TEST_CASE("load: qwen3 and gemma3 normalise the heads of q and k") {
  for (const char* name : {"qwen3", "gemma3"}) {
    const auto file = load(architectures / name);
    CHECK(file->shape.qk_norm);
    CHECK(file->tensors.layers[0].q_norm.columns == file->shape.head_dim);
    CHECK(file->tensors.layers[0].k_norm.columns == file->shape.head_dim);
  }
}

TEST_CASE("load: gemma3 mixes local and global layers") {
  const auto file = load(architectures / "gemma3");
  const auto& shape = file->shape;
  REQUIRE(shape.ropes.size() == 2);
  CHECK(shape.ropes[0].frequency[0] == 0.125f);  // linear factor 8
  CHECK(shape.ropes[1].frequency[0] == 1.0f);
  CHECK(shape.attention[0] == layer_attention{8, 1});
  CHECK(shape.attention[1] == layer_attention{8, 1});
  CHECK(shape.attention[2] == layer_attention{0, 0});
  CHECK(shape.embedding_scale == 8.0f);
  CHECK(shape.query_scale == doctest::Approx(1 / std::sqrt(24.0)));
  CHECK(shape.post_norms);
  CHECK(file->tensors.norm_plus_one);
  CHECK(!file->tensors.layers[0].attention_post_norm.empty());
  CHECK(!file->tensors.layers[0].ffn_post_norm.empty());
}

TEST_CASE("load: gpt2 weights come out as rows of outputs") {
  const auto file = load(architectures / "gpt2");
  const auto& layer = file->tensors.layers[1];
  CHECK(layer.q.rows == 64);
  CHECK(layer.up.rows == 128);
  CHECK(layer.down.columns == 128);
  CHECK(!layer.q.transposed);
  CHECK(layer.v_bias.columns == 64);
  CHECK(layer.gate.empty());
  CHECK(file->tensors.positions.rows == 64);
  CHECK(file->shape.ropes.empty());
  CHECK(file->shape.attention[0].rope == -1);
  CHECK(file->shape.norm == norm_kind::layer);
}

TEST_CASE("load: a head that is rotated in part is refused, wherever config.json says so") {
  struct row {
    const char *file, *key, *field;
  };
  for (const row& entry : {row{"config.json", "/partial_rotary_factor", "partial_rotary_factor"},
                           row{"config_v5.json", "/rope_parameters/partial_rotary_factor",
                               "rope_parameters.partial_rotary_factor"}}) {
    const auto bytes = read_file(architectures / "llama" / entry.file, 1u << 20);
    REQUIRE(bytes);
    json config = *parse_json(bytes->bytes(), entry.file);
    config[json::json_pointer(entry.key)] = 1.0;
    CHECK(hugging_face_shape(config));
    config[json::json_pointer(entry.key)] = 0.5;
    const auto refused = hugging_face_shape(config);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == errc::unsupported);
    CHECK(refused.error().field == entry.field);
  }
}

TEST_CASE("load: progress ends at the whole") {
  std::uint64_t last = 0, total = 0;
  const auto loaded =
      model_file::load(architectures / "llama", [&](std::uint64_t done, std::uint64_t all) {
        CHECK(done >= last);
        last = done;
        total = all;
      });
  REQUIRE(loaded);
  CHECK(last == total);
  CHECK(total == (*loaded)->file_bytes);
}

TEST_CASE("load: what is no model is refused by name") {
  CHECK(model_file::load("/nonexistent/model.gguf").error().code == errc::not_found);
  CHECK(model_file::load(architectures).error().field == "config.json");
  CHECK(model_file::load(architectures / "llama" / "config.json").error().code ==
        errc::unsupported);
}
