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

// Called after each chunk with the chunk's bytes.
using chunk_seen = std::function<void(std::span<const std::byte>)>;

// not_found, corrupt (not a regular file, or it changed while being read), exhausted (larger than
// `bytes_max` or than memory). `field` is the file's name.
result<aligned_bytes> read_file(const std::filesystem::path& path,
                                std::uint64_t bytes_max,
                                const chunk_seen& seen = {});
result<std::uint64_t> size_of_file(const std::filesystem::path& path);

}  // namespace foretoken::model
