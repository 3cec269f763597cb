// SPDX-License-Identifier: Apache-2.0
// Packed weights on disk: the same bytes come back, and whatever is not exactly what was written is
// packed again.
#include <sys/stat.h>

#include <algorithm>
#include <fstream>
#include <iterator>

#include "cpu/backend.hpp"
#include "cpu/packed_store.hpp"
#include "tests/cpu/made_model.hpp"
#include "tests/hostile/temporary_folder.hpp"
#include "tests/model/gguf_writer.hpp"

namespace foretoken {
namespace {

namespace fs = std::filesystem;
using cpu::numerics;
using test::temporary_folder;

// A llama of one layer whose matrices are Q8_0 or floats.
std::vector<std::byte> file_bytes(bool quantised = true,
                                  std::uint32_t context = 32,
                                  std::uint32_t ffn = 64) {
  model::written_gguf file = model::small_gguf();
  file.set("llama.context_length", model::u32(context));
  file.set("llama.embedding_length", model::u32(32));
  file.set("llama.feed_forward_length", model::u32(ffn));
  file.tensors.clear();
  file.data_bytes = 0;
  const auto matrix = [&](const char* name, std::uint64_t columns, std::uint64_t rows) {
    file.add_f32(name, {columns, rows});
    if (quantised) file.tensors.back().type = 8;
  };
  matrix("token_embd.weight", 32, 8);
  file.add_f32("blk.0.attn_norm.weight", {32});
  matrix("blk.0.attn_q.weight", 32, 32);
  matrix("blk.0.attn_k.weight", 32, 16);
  matrix("blk.0.attn_v.weight", 32, 16);
  matrix("blk.0.attn_output.weight", 32, 32);
  file.add_f32("blk.0.ffn_norm.weight", {32});
  matrix("blk.0.ffn_gate.weight", 32, ffn);
  matrix("blk.0.ffn_up.weight", 32, ffn);
  matrix("blk.0.ffn_down.weight", ffn, 32);
  file.add_f32("output_norm.weight", {32});
  return file.bytes();
}

struct place {
  temporary_folder folder{"packed"};
  fs::path source = folder.write("model.gguf", file_bytes());
  cpu::options chosen = [this] {
    auto made = test::small_options(cpu::isa::automatic, numerics::exact);
    made.packed.use = cpu::packed_cache::on;
    made.packed.folder = folder.path() / "kept";
    made.packed.settled_after = std::chrono::milliseconds(0);
    return made;
  }();

  std::shared_ptr<const cpu::weights> pack() const {
    const auto file = model::model_file::load(source);
    REQUIRE(file);
    auto made = cpu::prepare_weights(**file, chosen);
    REQUIRE(made);
    return *made;
  }
  // Null when nothing usable is kept.
  std::shared_ptr<const cpu::weights> recall() const {
    const auto outline = cpu::recall_model(source, chosen);
    if (!outline) return nullptr;
    auto made = cpu::prepare_weights(*outline, chosen);
    if (made) return *made;
    CHECK(made.error().field == "packed weights");
    return nullptr;
  }
  std::vector<fs::path> kept(const char* ending = ".packed") const {
    std::vector<fs::path> out;
    for (const auto& each : fs::directory_iterator(chosen.packed.folder)) {
      if (each.path().extension() == ending) out.push_back(each.path());
    }
    return out;
  }
};

bool same_blocks(const cpu::weights& a, const cpu::weights& b) {
  const auto left = cpu::packed_blocks(a);
  const auto right = cpu::packed_blocks(b);
  return std::equal(left.begin(), left.end(), right.begin(), right.end(),
                    [](auto x, auto y) { return std::ranges::equal(x, y); });
}

std::string content(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

test::row_logits logits(const std::shared_ptr<const cpu::weights>& made, const cpu::options& how) {
  auto ops = cpu::make_ops(made, how);
  REQUIRE(ops);
  test::row_logits seen;
  static_cast<cpu::step&>(**ops).probe_logits(
      [](void* context, int, std::span<const float> row) {
        static_cast<test::row_logits*>(context)->emplace_back(row.begin(), row.end());
      },
      &seen);
  const std::vector<token> text{1, 2, 3, 4, 5};
  const auto slice = test::device::slice(text, test::pages_from(0, 1), 0, text.size());
  REQUIRE(model::forward(**ops, test::batch_of({slice})));
  return seen;
}

TEST_CASE("packed: what was kept comes back with the same bytes and the same answers") {
  for (const cpu::isa path : test::paths_here()) {
    for (const auto precision : {numerics::exact, numerics::fast, numerics::float32}) {
      for (const bool quantised : {true, false}) {
        place at;
        at.folder.write("model.gguf", file_bytes(quantised));
        at.chosen.path = path;
        at.chosen.precision = precision;
        CHECK(at.recall() == nullptr);
        const auto packed = at.pack();
        const auto recalled = at.recall();
        REQUIRE(recalled);
        CHECK(same_blocks(*packed, *recalled));
        CHECK(logits(packed, at.chosen) == logits(recalled, at.chosen));
      }
    }
  }
}

TEST_CASE("packed: the last reader of a file packs, and keeps, what any reader does") {
  place at;
  at.folder.write("model.gguf", file_bytes(true, 32, 4096));  // matrices of many memory pages
  const auto packed = at.pack();
  at.chosen.last_reader = true;
  const auto last = at.pack();
  CHECK(same_blocks(*packed, *last));
  const auto recalled = at.recall();
  REQUIRE(recalled);
  CHECK(same_blocks(*packed, *recalled));
}

TEST_CASE("packed: an outline has the fingerprint, words and shape of the file") {
  place at;
  at.pack();
  const auto whole = model::model_file::load(at.source);
  const auto outline = cpu::recall_model(at.source, at.chosen);
  REQUIRE(outline);
  CHECK(outline->fingerprint == (*whole)->fingerprint);
  CHECK(outline->file_bytes == (*whole)->file_bytes);
  CHECK(outline->vocabulary.pieces == (*whole)->vocabulary.pieces);
  CHECK(outline->shape.width == 32);
  CHECK(cpu::plan_memory(*outline, at.chosen)->weight_bytes ==
        cpu::plan_memory(**whole, at.chosen)->weight_bytes);
}

TEST_CASE("packed: other numerics, another path and another file have files of their own") {
  place at;
  at.pack();
  at.chosen.precision = numerics::fast;
  CHECK(at.recall() == nullptr);
  at.pack();
  CHECK(at.kept().size() == 2);
  at.folder.write("model.gguf", file_bytes(true, 48));
  CHECK(at.recall() == nullptr);
  at.pack();
  CHECK(at.kept().size() == 3);
}

TEST_CASE("packed: floats packed as 8 bits have a file of their own, which comes back") {
  place at;
  at.folder.write("model.gguf", file_bytes(false));
  at.chosen.precision = numerics::fast;
  at.pack();
  at.chosen.floats = cpu::float_weights::w8;
  CHECK(at.recall() == nullptr);
  const auto packed = at.pack();
  CHECK(at.kept().size() == 2);
  const auto recalled = at.recall();
  REQUIRE(recalled);
  CHECK(same_blocks(*packed, *recalled));
  CHECK(logits(packed, at.chosen) == logits(recalled, at.chosen));
}

TEST_CASE("packed: a file that is not what was written is packed again, wherever it was spoiled") {
  place at;
  const auto packed = at.pack();
  REQUIRE(at.kept().size() == 1);
  const fs::path file = at.kept().front();
  const std::string good = content(file);
  const auto spoil = [&](const std::string& bytes) {
    std::ofstream(file, std::ios::binary | std::ios::trunc) << bytes;
    CHECK(at.recall() == nullptr);
  };
  for (std::size_t i = 0; i < good.size(); i += i < 512 ? 1 : 97) {
    CAPTURE(i);
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 0x10);
    spoil(bad);
  }
  spoil("");
  spoil(good.substr(0, 20));
  spoil(good.substr(0, good.size() - 1));
  spoil(good + "x");
  at.pack();
  const auto recalled = at.recall();
  REQUIRE(recalled);
  CHECK(same_blocks(*packed, *recalled));
}

TEST_CASE("packed: a note that was spoiled, or is of another state of the file, says nothing") {
  place at;
  at.pack();
  REQUIRE(at.kept(".note").size() == 1);
  const fs::path note = at.kept(".note").front();
  const std::string good = content(note);
  for (std::size_t i = 0; i <= good.size(); ++i) {
    std::string bad = good.substr(0, i);
    if (i < good.size()) bad += static_cast<char>(good[i] ^ 1);
    if (i + 1 < good.size()) bad += good.substr(i + 1);
    if (bad == good) continue;
    std::ofstream(note, std::ios::binary | std::ios::trunc) << bad;
    CHECK(at.recall() == nullptr);
  }
  std::ofstream(note, std::ios::binary | std::ios::trunc) << good;
  CHECK(at.recall() != nullptr);
  at.folder.write("model.gguf", file_bytes());  // the same bytes, written again
  CHECK(at.recall() == nullptr);
}

TEST_CASE("packed: a source touched a moment ago is not remembered") {
  place at;
  at.chosen.packed.settled_after = std::chrono::hours(1);
  at.pack();
  CHECK(at.kept().size() == 1);
  CHECK(at.kept(".note").empty());
  CHECK(at.recall() == nullptr);
}

TEST_CASE("packed: the least recently used go, and nothing that is not ours") {
  place at;
  at.pack();
  const fs::path oldest = at.kept().front();
  const auto bytes = fs::file_size(oldest);
  fs::last_write_time(oldest, fs::file_time_type::clock::now() - std::chrono::hours(9));
  const fs::path foreign = at.chosen.packed.folder / "mine.packed";
  const fs::path abandoned = fs::path(oldest.string() + ".Ab12Cd");
  for (const auto& each : {foreign, abandoned}) {
    std::ofstream(each) << std::string(1000, 'x');
    fs::last_write_time(each, fs::file_time_type::clock::now() - std::chrono::hours(99));
  }
  at.chosen.packed.bytes_max = 2 * bytes + bytes / 2;
  CHECK(at.recall() != nullptr);  // used: now it is the newest
  at.chosen.precision = numerics::fast;
  at.pack();
  fs::last_write_time(oldest, fs::file_time_type::clock::now() - std::chrono::hours(9));
  at.chosen.path = cpu::isa::portable;
  at.pack();
  CHECK_FALSE(fs::exists(oldest));
  CHECK_FALSE(fs::exists(abandoned));
  CHECK(fs::exists(foreign));
  CHECK(at.kept().size() == 3);
  at.chosen.packed.bytes_max = bytes / 2;
  at.chosen.precision = numerics::float32;
  at.pack();  // larger than all that is allowed: nothing goes for it
  CHECK(at.kept().size() == 3);
}

TEST_CASE("packed: a folder that others may enter is not used") {
  place at;
  fs::create_directories(at.chosen.packed.folder);
  ::chmod(at.chosen.packed.folder.c_str(), 0755);
  at.pack();
  CHECK(at.kept().empty());
  ::chmod(at.chosen.packed.folder.c_str(), 0700);
  at.pack();
  const fs::path file = at.kept().front();
  struct stat facts {};
  REQUIRE(::stat(file.c_str(), &facts) == 0);
  CHECK((facts.st_mode & 0777) == 0600);
  ::chmod(file.c_str(), 0622);
  CHECK(at.recall() == nullptr);
  ::chmod(file.c_str(), 0600);
  CHECK(at.recall() != nullptr);
  fs::rename(file, at.folder.path() / "elsewhere");
  fs::create_symlink(at.folder.path() / "elsewhere", file);
  CHECK(at.recall() == nullptr);
}

TEST_CASE("packed: off, automatic for a small file, and no folder keep nothing") {
  place at;
  for (const auto use : {cpu::packed_cache::off, cpu::packed_cache::automatic}) {
    at.chosen.packed.use = use;
    at.pack();
    const auto& folder = at.chosen.packed.folder;
    CHECK((!fs::exists(folder) || at.kept().empty()));
  }
  at.chosen.packed.use = cpu::packed_cache::on;
  at.chosen.packed.folder.clear();
  at.pack();
  CHECK(cpu::recall_model(at.source, at.chosen) == nullptr);
}

// A changed layout under an old number would be read as the old one: whoever changes these bytes
// raises cpu::packed_format and puts the new digests here.
TEST_CASE("packed: the bytes of this format are known") {
  CHECK(cpu::packed_format == 2);
  for (const cpu::isa path : test::paths_here()) {
    for (const auto precision : {numerics::exact, numerics::fast, numerics::float32}) {
      place at;
      at.chosen.path = path;
      at.chosen.precision = precision;
      sha256 hash;
      const auto made = at.pack();
      for (const auto block : cpu::packed_blocks(*made)) hash.add(block);
      const auto digest = hex(*hash.finish()).substr(0, 16);
      CAPTURE(cpu::isa_name(path));
      CHECK(digest ==
            std::string(precision == numerics::float32 ? "45edf141970d61d1" : "9339ce138e8906e4"));
    }
  }
}

}  // namespace
}  // namespace foretoken
