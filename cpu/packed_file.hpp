// SPDX-License-Identifier: Apache-2.0
#pragma once
// One file of blocks of bytes, with their lengths and checksums: written under another name and
// renamed, read in parallel. What is not exactly what was written is an error, never a crash.
//
//   head   magic, key [32], number of blocks and chunks, bytes of the file,
//          XXH3 of all before the data
//   table  u64 length of every block,
//          u64 XXH3 of every chunk (1 MiB of a block, the last less)
//   data   the blocks, one behind the other

#include <cstddef>
#include <filesystem>
#include <functional>
#include <span>
#include <vector>

#include "base/result.hpp"
#include "base/sha256.hpp"
#include "cpu/thread_pool.hpp"

namespace foretoken::cpu {

using const_blocks = std::vector<std::span<const std::byte>>;
using blocks = std::vector<std::span<std::byte>>;

// What the file will take.
std::uint64_t packed_file_bytes(const const_blocks& content) noexcept;

// Replaces `path` at once or not at all. Error: exhausted, with the system's words.
status write_packed_file(const std::filesystem::path& path,
                         const sha256_digest& key,
                         const const_blocks& content,
                         thread_pool& threads);

// Fills every block. Errors: not_found; corrupt (another key, other lengths, a checksum differs, a
// file that others may write); the blocks hold anything then.
status read_packed_file(const std::filesystem::path& path,
                        const sha256_digest& key,
                        const blocks& content,
                        thread_pool& threads);

}  // namespace foretoken::cpu
