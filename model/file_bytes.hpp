// SPDX-License-Identifier: Apache-2.0
#pragma once
// A file's content in memory of our own: a file that shrinks while we serve cannot hurt us, as a
// mapped one could.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "base/result.hpp"

namespace foretoken::model {

// Memory aligned to 64 bytes. Movable; the bytes stay where they are.
class aligned_bytes {
 public:
  static result<aligned_bytes> make(std::uint64_t size);  // exhausted when there is no memory
  std::span<std::byte> bytes() noexcept { return {memory_.get(), size_}; }
  std::span<const std::byte> bytes() const noexcept { return {memory_.get(), size_}; }

 private:
  struct release {
    void operator()(std::byte* memory) const noexcept;
  };
  std::unique_ptr<std::byte, release> memory_;
  std::size_t size_ = 0;
};

// What tells one state of a file from another without reading it. Writing changes `changed_ns`,
// which no user can set back.
struct file_identity {
  std::uint64_t device = 0, inode = 0, size = 0;
  std::int64_t modified_ns = 0, changed_ns = 0;  // since 1970
  bool operator==(const file_identity&) const = default;
  // A new name or owner changes nothing of it.
  bool same_content(const file_identity& other) const noexcept {
    return size == other.size && modified_ns == other.modified_ns;
  }
};

// A regular file open for reading at any place. Movable.
class readable_file {
 public:
  // not_found, corrupt (not a regular file); `field` is the file's name.
  static result<readable_file> open(const std::filesystem::path& path);
  readable_file(readable_file&& other) noexcept;
  readable_file& operator=(readable_file&&) = delete;
  ~readable_file();
  result<file_identity> identity() const;
  // Exactly these bytes. corrupt: the file ends before, or cannot be read.
  status read(std::uint64_t offset, std::span<std::byte> to) const;
  int descriptor() const noexcept { return descriptor_; }

 private:
  readable_file(int descriptor, std::string name) noexcept
      : descriptor_(descriptor), name_(std::move(name)) {}
  int descriptor_;
  std::string name_;
};

// Called after each chunk with the chunk's bytes.
using chunk_seen = std::function<void(std::span<const std::byte>)>;

// not_found, corrupt (not a regular file, or it changed while being read), unsupported (larger than
// `bytes_max`), exhausted (larger than memory). `field` is the file's name. `identity` receives the
// file's; empty when that changed alone, as a rename does.
result<aligned_bytes> read_file(const std::filesystem::path& path,
                                std::uint64_t bytes_max,
                                const chunk_seen& seen = {},
                                file_identity* identity = nullptr);
result<std::uint64_t> size_of_file(const std::filesystem::path& path);

}  // namespace foretoken::model
