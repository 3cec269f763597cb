// SPDX-License-Identifier: Apache-2.0
#include "model/model_file.hpp"

#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>

#include "model/file_bytes.hpp"
#include "model/gguf_model.hpp"
#include "model/hugging_face.hpp"
#include "model/safetensors.hpp"
#include "model/shape_rules.hpp"
#include "model/tensor_roles.hpp"

namespace foretoken::model {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t weights_bytes_max = std::uint64_t{1} << 44;
constexpr std::uint64_t outline_bytes_max = std::uint64_t{256} << 20;
constexpr std::uint64_t json_bytes_max = std::uint64_t{128} << 20;

struct hash_release {
  void operator()(XXH64_state_t* state) const noexcept { XXH64_freeState(state); }
};

// Progress and content hash of everything read, over all files.
class content_meter {
 public:
  content_meter(const load_progress& progress, std::uint64_t total)
      : progress_(progress), total_(total), state_(XXH64_createState()) {
    if (state_) XXH64_reset(state_.get(), 0);
  }
  bool usable() const noexcept { return state_ != nullptr; }
  void operator()(std::span<const std::byte> chunk) {
    XXH64_update(state_.get(), chunk.data(), chunk.size());
    done_ += chunk.size();
    if (progress_) progress_(std::min(done_, total_), total_);
  }
  std::uint64_t digest() const { return XXH64_digest(state_.get()); }

 private:
  const load_progress& progress_;
  std::uint64_t total_ = 0, done_ = 0;
  std::unique_ptr<XXH64_state_t, hash_release> state_;
};

class owned_model_file final : public model_file {
 public:
  owned_model_file() = default;
  void forget(const tensor& read) const noexcept override;
  std::vector<aligned_bytes> memory;  // files, and transposed copies; every tensor points in here
};

// Whole pages between the tensor's first and last byte: neither a neighbour's nor the heap's own.
void owned_model_file::forget(const tensor& read) const noexcept {
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const std::size_t within = reinterpret_cast<std::uintptr_t>(read.bytes.data()) % page;
  const std::size_t skipped = (page - within) % page;
  if (read.bytes.size() < skipped + page) return;
  const std::size_t whole = (read.bytes.size() - skipped) / page * page;
  auto* const first = const_cast<std::byte*>(read.bytes.data()) + skipped;
  ::madvise(first, whole, MADV_DONTNEED);
}

// Everything but the memory, from a file's bytes; of an outline, only header and vectors are read.
status read_gguf(const gguf_contents& contents, owned_model_file& out) {
  auto shape = gguf_shape(contents);
  if (!shape) return shape.error();
  auto tensors = assemble_gguf(contents.tensors, *shape);
  if (!tensors) return tensors.error();
  auto vocabulary = gguf_vocabulary(contents, *shape);
  if (!vocabulary) return vocabulary.error();
  gguf_reader keys(contents);
  out.chat_template = keys.text("tokenizer.chat_template", "");
  FORETOKEN_TRY(keys.outcome());
  out.shape = std::move(*shape);
  out.tensors = std::move(*tensors);
  out.vocabulary = std::move(*vocabulary);
  out.format = "GGUF v" + std::to_string(contents.version);
  return {};
}

status load_gguf(const fs::path& path, const load_progress& progress, owned_model_file& out) {
  const auto size = size_of_file(path);
  if (!size) return size.error();
  content_meter meter(progress, *size);
  if (!meter.usable()) return error{errc::exhausted, "no memory for a hash", ""};
  file_identity identity;
  auto file = read_file(path, weights_bytes_max, std::ref(meter), &identity);
  if (!file) return file.error();
  const auto contents = parse_gguf(file->bytes());
  if (!contents) return contents.error();
  FORETOKEN_TRY(read_gguf(*contents, out));
  out.file_bytes = *size;
  out.fingerprint = meter.digest();
  out.memory.push_back(std::move(*file));  // moving keeps the bytes where they are
  if (identity.size > 0) {
    out.source = source_file{fs::absolute(path), identity, out.memory.back().bytes()};
  }
  return {};
}

// Reads ever more of the file's front until the whole header is there. What was not read may hold
// anything: only a parse that stayed inside what was read counts.
result<gguf_contents> read_header(const readable_file& file, std::span<std::byte> all) {
  std::uint64_t have = 0;
  for (std::uint64_t want = std::uint64_t{4} << 20;; want *= 4) {
    want = std::min<std::uint64_t>(want, all.size());
    FORETOKEN_TRY(file.read(have, all.subspan(have, want - have)));
    have = want;
    auto contents = parse_gguf(all);
    if (contents && contents->header_bytes <= have) return contents;
    if (have == all.size()) return contents ? corrupt("header", "too long") : contents.error();
    if (have >= outline_bytes_max) return unsupported("header", "longer than an outline may be");
  }
}

status load_gguf_outline(const fs::path& path, owned_model_file& out) {
  const auto file = readable_file::open(path);
  if (!file) return file.error();
  const auto identity = file->identity();
  if (!identity) return identity.error();
  if (identity->size > weights_bytes_max) return unsupported("file", "too large");
  auto memory = aligned_bytes::make(identity->size);  // pages that are never touched take no memory
  if (!memory) return memory.error();
  const std::span<std::byte> all = memory->bytes();
  auto contents = read_header(*file, all);
  if (!contents) return contents.error();
  for (const auto& [name, stored] : contents->tensors.all()) {
    if (stored.shape.size() != 1) continue;
    const auto offset = static_cast<std::size_t>(stored.bytes.data() - all.data());
    FORETOKEN_TRY(file->read(offset, all.subspan(offset, stored.bytes.size())));
  }
  FORETOKEN_TRY(read_gguf(*contents, out));
  const auto after = file->identity();
  if (!after || *after != *identity) return corrupt("file", "it changed while it was read");
  out.file_bytes = identity->size;
  out.outline = true;
  out.source = source_file{fs::absolute(path), *identity, {}};
  out.memory.push_back(std::move(*memory));
  return {};
}

bool is_present(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

// A JSON file of the folder; null when it is absent and not needed.
result<json> read_json(const fs::path& folder,
                       const char* name,
                       bool needed,
                       const chunk_seen& seen) {
  const fs::path path = folder / name;
  if (!needed && !is_present(path)) return json();
  const auto file = read_file(path, json_bytes_max, seen);
  if (!file) return file.error();
  return parse_json(file->bytes(), name);
}

result<std::vector<std::string>> weight_files(const fs::path& folder, const chunk_seen& seen) {
  const char* single = "model.safetensors";
  const char* index = "model.safetensors.index.json";
  if (is_present(folder / single)) return std::vector<std::string>{single};
  if (is_present(folder / index)) {
    const auto text = read_file(folder / index, json_bytes_max, seen);
    if (!text) return text.error();
    return parse_shard_index(text->bytes(), index);
  }
  for (const char* pickle : {"pytorch_model.bin", "pytorch_model.bin.index.json"}) {
    if (is_present(folder / pickle)) {
      return unsupported(pickle, "pickle files run code when they are read; use safetensors");
    }
  }
  return error{errc::not_found, "the folder has no model.safetensors", single};
}

status read_weights(const fs::path& folder,
                    const load_progress& progress,
                    owned_model_file& out,
                    std::uint64_t& fingerprint,
                    tensor_store& store,
                    const std::string& texts_hashed) {
  const auto names = weight_files(folder, {});
  if (!names) return names.error();
  for (const auto& name : *names) {
    const auto size = size_of_file(folder / name);
    if (!size) return size.error();
    out.file_bytes += *size;
  }
  content_meter meter(progress, out.file_bytes);
  if (!meter.usable()) return error{errc::exhausted, "no memory for a hash", ""};
  for (const auto& name : *names) {
    auto file = read_file(folder / name, weights_bytes_max, std::ref(meter));
    if (!file) return file.error();
    FORETOKEN_TRY(parse_safetensors(file->bytes(), name, store));
    out.memory.push_back(std::move(*file));
  }
  const std::uint64_t weights = meter.digest();
  fingerprint = XXH64(texts_hashed.data(), texts_hashed.size(), weights);
  return {};
}

status load_hugging_face(const fs::path& folder,
                         const load_progress& progress,
                         owned_model_file& out) {
  std::string texts;  // what the small files hold, for the fingerprint
  const chunk_seen keep = [&](std::span<const std::byte> chunk) {
    texts.append(reinterpret_cast<const char*>(chunk.data()), chunk.size());
  };
  hugging_face_files files;
  const auto read = [&](const char* name, bool needed, json& to) -> status {
    auto parsed = read_json(folder, name, needed, keep);
    if (!parsed) return parsed.error();
    to = std::move(*parsed);
    return {};
  };
  FORETOKEN_TRY(read("config.json", true, files.config));
  auto shape = hugging_face_shape(files.config);
  if (!shape) return shape.error();
  FORETOKEN_TRY(read("tokenizer.json", true, files.tokenizer));
  FORETOKEN_TRY(read("tokenizer_config.json", false, files.tokenizer_config));
  FORETOKEN_TRY(read("generation_config.json", false, files.generation_config));
  auto vocabulary = hugging_face_vocabulary(files, *shape);
  if (!vocabulary) return vocabulary.error();
  tensor_store store;
  FORETOKEN_TRY(read_weights(folder, progress, out, out.fingerprint, store, texts));
  auto tensors = assemble_hugging_face(store, *shape, out.memory);
  if (!tensors) return tensors.error();
  out.chat_template = hugging_face_chat_template(files.tokenizer_config);
  const fs::path jinja = folder / "chat_template.jinja";
  if (out.chat_template.empty() && is_present(jinja)) {
    const auto text = read_file(jinja, std::uint64_t{1} << 20);
    if (!text) return text.error();
    out.chat_template.assign(reinterpret_cast<const char*>(text->bytes().data()),
                             text->bytes().size());
  }
  out.shape = std::move(*shape);
  out.shape.name = fs::absolute(folder / "config.json").parent_path().filename().string();
  out.tensors = std::move(*tensors);
  out.vocabulary = std::move(*vocabulary);
  out.format = "safetensors";
  return {};
}

}  // namespace

void model_file::forget(const tensor&) const noexcept {}

result<std::shared_ptr<const model_file>> model_file::load(const fs::path& path,
                                                           const load_progress& progress) {
  const auto out = std::make_shared<owned_model_file>();
  std::error_code ignored;
  const auto kind = fs::status(path, ignored).type();
  if (kind == fs::file_type::not_found) {
    return error{errc::not_found, "there is no such file or folder", path.string()};
  }
  const std::string ending = path.extension().string();
  if (kind == fs::file_type::directory) {
    FORETOKEN_TRY(load_hugging_face(path, progress, *out));
  } else if (ending == ".bin" || ending == ".pt" || ending == ".pth" || ending == ".ckpt") {
    return unsupported(path.filename().string(),
                       "pickle files run code when they are read; use safetensors or GGUF");
  } else if (ending == ".safetensors" || ending == ".json") {
    return unsupported(path.filename().string(), "give the folder that holds config.json instead");
  } else {
    FORETOKEN_TRY(load_gguf(path, progress, *out));
  }
  return std::shared_ptr<const model_file>(out);
}

result<std::shared_ptr<model_file>> model_file::load_outline(const fs::path& path) {
  std::error_code ignored;
  if (!fs::is_regular_file(path, ignored)) {
    return unsupported(path.filename().string(), "only a .gguf file has an outline");
  }
  const auto out = std::make_shared<owned_model_file>();
  FORETOKEN_TRY(load_gguf_outline(path, *out));
  return std::shared_ptr<model_file>(out);
}

}  // namespace foretoken::model
