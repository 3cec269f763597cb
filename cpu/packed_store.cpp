// SPDX-License-Identifier: Apache-2.0
#include "cpu/packed_store.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <string>
#include <vector>

#include "base/log.hpp"
#include "cpu/dispatch.hpp"

namespace foretoken::cpu {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t notes_max = 256;
constexpr std::chrono::hours abandoned_after{1};  // a temporary file whose writer ended early

const char* precision_name(numerics precision) noexcept {
  switch (precision) {
    case numerics::exact: return "exact";
    case numerics::fast: return "fast";
    case numerics::float32: return "float32";
  }
  return "unknown";
}

// One source's note: its identity, then what it holds. Written and compared as bytes.
struct note {
  std::uint64_t device = 0, inode = 0, size = 0;
  std::int64_t modified_ns = 0, changed_ns = 0;
  std::uint64_t fingerprint = 0;
  sha256_digest content{};
  sha256_digest check{};  // SHA-256 of all before

  explicit note(const model::file_identity& of) noexcept
      : device(of.device),
        inode(of.inode),
        size(of.size),
        modified_ns(of.modified_ns),
        changed_ns(of.changed_ns) {}
  note() = default;
  std::optional<sha256_digest> checksum() const {
    sha256 hash;
    hash.add({reinterpret_cast<const std::byte*>(this), offsetof(note, check)});
    return hash.finish();
  }
  bool same_identity(const note& other) const noexcept {
    return std::memcmp(this, &other, offsetof(note, fingerprint)) == 0;
  }
};

bool is_private(const fs::path& folder) {
  struct stat facts {};
  return ::lstat(folder.c_str(), &facts) == 0 && S_ISDIR(facts.st_mode) &&
         facts.st_uid == ::geteuid() && (facts.st_mode & (S_IRWXG | S_IRWXO)) == 0;
}

struct kept_file {
  fs::path path;
  std::uint64_t bytes = 0;
  fs::file_time_type used;
};

// A name that this store gives: 64 hexadecimal digits and an ending. Nothing else is ever touched.
bool is_ours(const fs::path& name, const char* ending) {
  const std::string stem = name.stem().string();
  return name.extension() == ending && stem.size() == 64 &&
         stem.find_first_not_of("0123456789abcdef") == std::string::npos;
}

// Files with this ending, the longest unused first.
std::vector<kept_file> files_in(const fs::path& folder, const char* ending) {
  std::vector<kept_file> out;
  std::error_code failed;
  for (auto at = fs::directory_iterator(folder, failed); !failed && at != fs::directory_iterator();
       at.increment(failed)) {
    if (!is_ours(at->path().filename(), ending)) continue;
    std::error_code gone;  // another process may drop it meanwhile
    const kept_file one{at->path(), at->file_size(gone), at->last_write_time(gone)};
    if (!gone) out.push_back(one);
  }
  std::sort(out.begin(), out.end(),
            [](const kept_file& a, const kept_file& b) { return a.used < b.used; });
  return out;
}

void drop_abandoned(const fs::path& folder) {
  std::error_code failed;
  for (auto at = fs::directory_iterator(folder, failed); !failed && at != fs::directory_iterator();
       at.increment(failed)) {
    const fs::path meant = at->path().stem();  // the name that it was to be renamed to
    if (!is_ours(meant, ".packed") && !is_ours(meant, ".note")) continue;
    std::error_code gone;
    const auto age = fs::file_time_type::clock::now() - at->last_write_time(gone);
    if (!gone && age > abandoned_after) fs::remove(at->path(), gone);
  }
}

bool settled(const model::file_identity& identity, std::chrono::nanoseconds after) {
  const std::chrono::nanoseconds now = std::chrono::system_clock::now().time_since_epoch();
  const auto touched = std::max(identity.modified_ns, identity.changed_ns);
  return now - std::chrono::nanoseconds(touched) >= after;
}

}  // namespace

sha256_digest packed_key(const source_digest& source,
                         isa path,
                         numerics precision,
                         float_weights floats) {
  sha256 hash;
  hash.add("foretoken packed weights\n");
  hash.add(std::to_string(packed_format) + "\n" + isa_name(path) + "\n" +
           precision_name(precision) + "\n");
  if (floats == float_weights::w8) hash.add("w8\n");
  hash.add(source.content);
  return hash.finish().value_or(sha256_digest{});
}

std::optional<packed_store> packed_store::open(const packed_options& chosen) {
  if (chosen.use == packed_cache::off || chosen.folder.empty()) return std::nullopt;
  std::error_code failed;
  fs::create_directories(chosen.folder.parent_path(), failed);
  ::mkdir(chosen.folder.c_str(), 0700);  // is there, or is not: what follows looks
  if (!fs::exists(fs::symlink_status(chosen.folder, failed))) {
    log::info("model", "packed weights are not kept: {} cannot be made", chosen.folder.string());
    return std::nullopt;
  }
  if (!is_private(chosen.folder)) {
    log::warn("model",
              "packed weights are not kept: {} is not a folder of this user with mode 0700",
              chosen.folder.string());
    return std::nullopt;
  }
  return packed_store(chosen);
}

fs::path packed_store::file_of(const sha256_digest& key) const {
  return chosen_.folder / (hex(key) + ".packed");
}

void packed_store::touch(const sha256_digest& key) const noexcept {
  ::utimensat(AT_FDCWD, file_of(key).c_str(), nullptr, AT_SYMLINK_NOFOLLOW);
}

bool packed_store::make_room(std::uint64_t bytes) const {
  drop_abandoned(chosen_.folder);
  if (bytes > chosen_.bytes_max) return false;
  const auto kept = files_in(chosen_.folder, ".packed");
  std::uint64_t sum = 0;
  for (const kept_file& each : kept) sum += each.bytes;
  for (const kept_file& each : kept) {
    if (sum <= chosen_.bytes_max - bytes) break;
    std::error_code gone;
    fs::remove(each.path, gone);
    log::info("model", "dropped packed weights that were not used since others: {}",
              each.path.filename().string());
    sum -= each.bytes;
  }
  return true;
}

fs::path packed_store::note_of(const model::source_file& source) const {
  sha256 hash;
  hash.add(source.path.string());
  return chosen_.folder / (hex(hash.finish().value_or(sha256_digest{})) + ".note");
}

std::optional<source_digest> packed_store::recall(const model::source_file& source) const {
  const auto file = model::readable_file::open(note_of(source));
  note found;
  if (!file || !file->read(0, std::as_writable_bytes(std::span(&found, 1)))) return std::nullopt;
  if (found.checksum() != found.check || !found.same_identity(note(source.identity))) {
    return std::nullopt;
  }
  return source_digest{found.content, found.fingerprint};
}

void packed_store::remember(const model::source_file& source, const source_digest& digest) const {
  if (!settled(source.identity, chosen_.settled_after)) return;
  note made(source.identity);
  made.fingerprint = digest.fingerprint;
  made.content = digest.content;
  made.check = made.checksum().value_or(sha256_digest{});
  auto notes = files_in(chosen_.folder, ".note");
  for (std::size_t i = 0; i + notes_max <= notes.size(); ++i) {
    std::error_code gone;
    fs::remove(notes[i].path, gone);
  }
  const fs::path path = note_of(source);
  std::string name = path.string() + ".XXXXXX";
  const int file = ::mkostemp(name.data(), O_CLOEXEC);
  if (file < 0) return;
  const bool whole = ::write(file, &made, sizeof made) == static_cast<ssize_t>(sizeof made);
  ::close(file);
  if (!whole || ::rename(name.c_str(), path.c_str()) != 0) ::unlink(name.c_str());
}

}  // namespace foretoken::cpu
