// SPDX-License-Identifier: Apache-2.0
#pragma once
// A model as loaded from disk: shape, tensors by role, and what the tokenizer and chat template
// need. The file is hostile input: every count, length, offset and value is checked; a defect is an
// error that names the key or tensor, never a crash.

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "model/file_bytes.hpp"
#include "model/hyperparameters.hpp"
#include "model/tensor.hpp"
#include "tokenizer/vocabulary.hpp"

namespace foretoken::model {

// Tensors of one layer. Which may be empty follows from the hyperparameters; load() checks it.
struct layer_tensors {
  tensor attention_norm, attention_norm_bias;
  tensor q, k, v, q_bias, k_bias, v_bias;  // gpt2's fused c_attn is split into these on load
  tensor q_norm, k_norm;                   // [1, head_dim]
  tensor o, o_bias;
  tensor attention_post_norm;  // gemma3
  tensor ffn_norm, ffn_norm_bias;
  tensor gate, up, up_bias, down, down_bias;
  tensor ffn_post_norm;  // gemma3
};

struct model_tensors {
  tensor embedding;  // [vocabulary, width]
  tensor positions;  // gpt2: [context, width]
  std::vector<layer_tensors> layers;
  tensor final_norm, final_norm_bias;
  tensor head;  // [vocabulary, width]; the embedding itself when tied
  // gemma3: norm weights multiply as (1 + weight). GGUF files already hold 1 + w, so false there.
  bool norm_plus_one = false;
};

// Progress of a load: bytes done of bytes in all. Called on the loading thread.
using load_progress = std::function<void(std::uint64_t done_bytes, std::uint64_t total_bytes)>;

// The one file that a model was read from; for what is kept of it elsewhere.
struct source_file {
  std::filesystem::path path;
  file_identity identity;
  std::span<const std::byte> content;  // whole, in memory; empty for an outline
};

class model_file {
 public:
  // `path`: a .gguf file, or a Hugging Face folder (config.json, *.safetensors, tokenizer.json).
  // Errors: not_found, corrupt, unsupported; `field` is the key or tensor.
  static result<std::shared_ptr<const model_file>> load(const std::filesystem::path& path,
                                                        const load_progress& progress = {});
  // All but the matrices of a .gguf file: their tensors have types, shapes and lengths, and bytes
  // that must not be read. `fingerprint` is 0. Errors: those of load(), and unsupported for what
  // has no outline (folders, headers above 256 MiB).
  static result<std::shared_ptr<model_file>> load_outline(const std::filesystem::path& path);
  virtual ~model_file() = default;
  // Gives back the memory of a tensor's bytes, which hold anything afterwards. For the last reader
  // of a file; several threads may do so for different tensors.
  virtual void forget(const tensor& read) const noexcept;

  hyperparameters shape;
  model_tensors tensors;
  tokenizer::vocabulary_spec vocabulary;
  std::string chat_template;  // the file's template text, or empty; never executed
  std::string format;         // "GGUF v3" or "safetensors"
  std::uint64_t file_bytes = 0;
  std::uint64_t fingerprint = 0;      // hash of the whole content, for cache namespaces
  bool outline = false;               // from load_outline()
  std::optional<source_file> source;  // of a .gguf file

 protected:
  model_file() = default;
};

}  // namespace foretoken::model
