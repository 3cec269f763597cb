// SPDX-License-Identifier: Apache-2.0
#pragma once
// The folder of packed weights: which file is whose, how much all may take, and which source file
// was seen to have which content. Any number of processes may use one folder.

#include <filesystem>
#include <optional>

#include "base/sha256.hpp"
#include "cpu/options.hpp"
#include "model/model_file.hpp"

namespace foretoken::cpu {

// What a source file holds.
struct source_digest {
  sha256_digest content{};
  std::uint64_t fingerprint = 0;  // model_file::fingerprint
};

// The name of packed weights: everything that decides their bytes. Raise `packed_format` with any
// change of a layout; tests/cpu/packed_test.cpp knows the bytes of this one.
constexpr int packed_format = 2;
sha256_digest packed_key(const source_digest& source,
                         isa path,
                         numerics precision,
                         float_weights floats);

class packed_store {
 public:
  // Makes the folder (mode 0700) when it is not there. Empty: switched off, or a folder that is not
  // ours alone (logged).
  static std::optional<packed_store> open(const packed_options& chosen);

  std::filesystem::path file_of(const sha256_digest& key) const;
  // Marks a file as used now.
  void touch(const sha256_digest& key) const noexcept;
  // Drops what was used longest ago until `bytes` more fit; false when they never will.
  bool make_room(std::uint64_t bytes) const;

  // The digest of a source whose identity is that of a time when it was read. Empty: never seen.
  std::optional<source_digest> recall(const model::source_file& source) const;
  // Not for a file that was touched a moment ago (packed_options::settled_after): it could change
  // again without a trace in its times.
  void remember(const model::source_file& source, const source_digest& digest) const;

 private:
  explicit packed_store(const packed_options& chosen) : chosen_(chosen) {}
  std::filesystem::path note_of(const model::source_file& source) const;
  packed_options chosen_;
};

}  // namespace foretoken::cpu
