// SPDX-License-Identifier: Apache-2.0
// Every spoiled file from disk: by the loader, which must name code and field, and by the program,
// which must say the same and end with status 2 (1 at most) at once.
#include <doctest/doctest.h>

#include <set>

#include "model/model_file.hpp"
#include "tests/config/spoiled_toml.hpp"
#include "tests/hostile/catalogue.hpp"
#include "tests/hostile/program.hpp"
#include "tests/hostile/temporary_folder.hpp"
#include "tests/model/gguf_writer.hpp"
#include "tests/model/spoiled_gguf.hpp"
#include "tests/model/spoiled_hugging_face.hpp"

using namespace foretoken;
using model::spoiled_file;
using test::temporary_folder;
namespace fs = std::filesystem;

namespace {

const std::string program = FORETOKEN_PROGRAM;
const fs::path llama = fs::path(FORETOKEN_TEST_DATA) / "reference" / "architectures" / "llama";

void check_program(const std::vector<std::string>& words, const std::string& field) {
  const auto ended = test::run_program(program, words);
  CAPTURE(words.front());
  CAPTURE(ended.err);
  CHECK((ended.status == 1 || ended.status == 2));
  CHECK(ended.out == "");
  CHECK(ended.err.starts_with("foretoken: "));
  CHECK(ended.err.find(field) != std::string::npos);
  CHECK(ended.cpu_seconds < test::refusal_seconds_max());
}

// `serve` takes the same way through the loader, so one file of each entry is enough for it.
void check_refused(const spoiled_file& one, const fs::path& path, std::set<int>& served) {
  CAPTURE(one.what);
  const auto read = model::model_file::load(path);
  REQUIRE_FALSE(read);
  CHECK(errc_name(read.error().code) == std::string(errc_name(one.code)));
  CHECK(read.error().field == one.field);
  check_program({"inspect", path.string()}, one.field);
  if (!served.insert(one.entry).second) return;
  check_program(
      {"serve", "--model", path.string(), "--http", "127.0.0.1:0", "--tcp", "127.0.0.1:0"},
      one.field);
}

// A checkpoint that is good but for what a test writes into it.
void fill(const temporary_folder& folder) {
  for (const auto& file : fs::directory_iterator(llama)) {
    fs::copy_file(file.path(), folder.path() / file.path().filename(),
                  fs::copy_options::overwrite_existing);
  }
}

}  // namespace

TEST_CASE("files: the files that the spoiled ones are made of are good") {
  const temporary_folder folder("good");
  const auto path = folder.write("model.gguf", model::small_gguf().bytes());
  CHECK(model::model_file::load(path));
  CHECK(test::run_program(program, {"inspect", path.string()}).status == 0);
  fill(folder);
  CHECK(model::model_file::load(folder.path()));
}

TEST_CASE("files: every spoiled GGUF file is refused by the loader and the program") {
  const temporary_folder folder("gguf");
  std::set<int> served;
  for (const spoiled_file& one : model::spoiled_gguf_files()) {
    check_refused(one, folder.write("model.gguf", one.bytes), served);
  }
}

TEST_CASE("files: every spoiled safetensors file is refused by the loader and the program") {
  const temporary_folder folder("safetensors");
  fill(folder);
  std::set<int> served;
  for (const spoiled_file& one : model::spoiled_safetensors("model.safetensors")) {
    folder.write("model.safetensors", one.bytes);
    check_refused(one, folder.path(), served);
  }
}

TEST_CASE("files: every spoiled tokenizer.json is refused by the loader and the program") {
  const temporary_folder folder("tokenizer");
  fill(folder);
  std::ifstream file(llama / "config.json");
  model::json config = model::json::parse(file);
  config["vocab_size"] = 4;
  config["bos_token_id"] = config["eos_token_id"] = 0;
  folder.write("config.json", config.dump());
  fs::remove(folder.path() / "tokenizer_config.json");
  fs::remove(folder.path() / "generation_config.json");
  std::set<int> served;
  for (const spoiled_file& one : model::spoiled_tokenizers()) {
    folder.write("tokenizer.json", one.bytes);
    check_refused(one, folder.path(), served);
  }
}

TEST_CASE("files: a shard index cannot lead out of its folder, nor to what is missing") {
  const temporary_folder folder("shards");
  fill(folder);
  fs::remove(folder.path() / "model.safetensors");
  const char* index = "model.safetensors.index.json";
  std::set<int> served;
  for (const char* shard : {"../../etc/passwd", "/etc/passwd", "../model.safetensors",
                            "/dev/zero.safetensors", "sub/m.safetensors", ".."}) {
    folder.write(index, std::string(R"({"weight_map":{"w":")") + shard + "\"}}");
    check_refused({38, shard, {}, index}, folder.path(), served);
  }
  folder.write(index, R"({"weight_map":{"w":"m-1.safetensors"}})");
  check_refused({38, "missing", {}, "m-1.safetensors", errc::not_found}, folder.path(), served);
  // A name that is plain may still be a pipe or a folder.
  fs::create_directory(folder.path() / "m-1.safetensors");
  check_refused({38, "a folder", {}, "m-1.safetensors"}, folder.path(), served);
}

TEST_CASE("files: pickles are refused, not read") {
  const temporary_folder folder("pickle");
  std::set<int> served;
  for (const char* name : {"model.bin", "model.pt", "model.pth", "model.ckpt"}) {
    const auto path = folder.write(name, "\x80\x02}q\x01.");
    check_refused({38, name, {}, name, errc::unsupported}, path, served);
  }
  fill(folder);
  fs::rename(folder.path() / "model.safetensors", folder.path() / "pytorch_model.bin");
  check_refused({38, "folder", {}, "pytorch_model.bin", errc::unsupported}, folder.path(), served);
}

TEST_CASE("files: every spoiled configuration is refused by the program") {
  const temporary_folder folder("toml");
  for (const auto& one : config::spoiled_toml_files()) {
    CAPTURE(one.text.substr(0, 80));
    const auto path = folder.write("t.toml", one.text);
    const auto ended =
        test::run_program(program, {"serve", "--check-config", "--config", path.string()});
    CAPTURE(ended.err);
    CHECK(ended.status == 2);
    CHECK(ended.err.starts_with("foretoken: " + one.field + ": "));
    CHECK(ended.err.find(one.part) != std::string::npos);
    CHECK(ended.cpu_seconds < test::refusal_seconds_max());
  }
}

TEST_CASE("files: every number in the tables of spoiled files is an entry that says so") {
  std::set<int> numbers;
  for (const auto& one : model::spoiled_gguf_files()) numbers.insert(one.entry);
  for (const auto& one : model::spoiled_safetensors("file")) numbers.insert(one.entry);
  for (const auto& one : model::spoiled_tokenizers()) numbers.insert(one.entry);
  for (const auto& one : config::spoiled_toml_files()) numbers.insert(one.entry);
  for (const auto& entry : test::catalogue()) {
    bool by_table = false;
    for (const auto& [from, name] : entry.by) {
      by_table = by_table || std::string(name).starts_with("files: every spoiled");
    }
    CAPTURE(entry.number);
    CHECK(by_table == numbers.contains(entry.number));
  }
}
