// SPDX-License-Identifier: Apache-2.0
#include "cpu/packed_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <string>

namespace foretoken::cpu {
namespace {

// 1 MiB: half of it is in L2 when it is hashed; 120 chunks of a small model keep all threads busy.
constexpr std::size_t chunk_bytes = std::size_t{1} << 20;
constexpr std::uint64_t magic = 0x31304b4341504654;  // "FTPACK01"

struct file_head {
  std::uint64_t mark = magic;
  sha256_digest key{};
  std::uint64_t blocks = 0, chunks = 0, file_bytes = 0;
  std::uint64_t checksum = 0;  // of the head up to here, and of the table
};

template <class Byte>
struct chunk {
  std::span<Byte> bytes;
  std::uint64_t offset = 0;  // in the file
};

template <class Byte>
std::uint64_t chunk_count(const std::vector<std::span<Byte>>& content) noexcept {
  std::uint64_t count = 0;
  for (const auto& block : content) count += (block.size() + chunk_bytes - 1) / chunk_bytes;
  return count;
}

template <class Byte>
std::uint64_t head_bytes(const std::vector<std::span<Byte>>& content) noexcept {
  return sizeof(file_head) + 8 * (content.size() + chunk_count(content));
}

template <class Byte>
std::vector<chunk<Byte>> cut(const std::vector<std::span<Byte>>& content) {
  std::vector<chunk<Byte>> out;
  std::uint64_t offset = head_bytes(content);
  for (const auto& block : content) {
    for (std::size_t at = 0; at < block.size(); at += chunk_bytes) {
      const auto part = block.subspan(at, std::min(chunk_bytes, block.size() - at));
      out.push_back({part, offset});
      offset += part.size();
    }
  }
  return out;
}

template <class Byte>
std::uint64_t whole_bytes(const std::vector<std::span<Byte>>& content) noexcept {
  std::uint64_t sum = head_bytes(content);
  for (const auto& block : content) sum += block.size();
  return sum;
}

// Head and lengths as they must be; the checksums of the chunks are zero.
template <class Byte>
std::vector<std::byte> expected_front(const sha256_digest& key,
                                      const std::vector<std::span<Byte>>& content) {
  std::vector<std::byte> front(head_bytes(content));
  file_head head;
  head.key = key;
  head.blocks = content.size();
  head.chunks = chunk_count(content);
  head.file_bytes = whole_bytes(content);
  std::memcpy(front.data(), &head, sizeof head);
  std::byte* to = front.data() + sizeof head;
  for (const auto& block : content) {
    const std::uint64_t length = block.size();
    std::memcpy(to, &length, sizeof length);
    to += sizeof length;
  }
  return front;
}

std::uint64_t front_checksum(std::span<const std::byte> front) {
  const std::uint64_t head = XXH3_64bits(front.data(), offsetof(file_head, checksum));
  const auto table = front.subspan(sizeof(file_head));
  return XXH3_64bits_withSeed(table.data(), table.size(), head);
}

class descriptor {
 public:
  explicit descriptor(int number) noexcept : number_(number) {}
  descriptor(const descriptor&) = delete;
  descriptor& operator=(const descriptor&) = delete;
  ~descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  int get() const noexcept { return number_; }

 private:
  int number_;
};

bool write_all(int file, std::uint64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const auto put = ::pwrite(file, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return false;
    offset += static_cast<std::uint64_t>(put);
    bytes = bytes.subspan(static_cast<std::size_t>(put));
  }
  return true;
}

bool read_all(int file, std::uint64_t offset, std::span<std::byte> bytes) {
  while (!bytes.empty()) {
    const auto got = ::pread(file, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    offset += static_cast<std::uint64_t>(got);
    bytes = bytes.subspan(static_cast<std::size_t>(got));
  }
  return true;
}

// The checksum of chunk `index` in the table.
std::byte* checksum_at(std::vector<std::byte>& front, std::size_t blocks, std::size_t index) {
  return front.data() + sizeof(file_head) + 8 * (blocks + index);
}

// Hashes and writes every chunk; the front comes last. The first errno that stopped it, or 0.
int write_content(int file,
                  const sha256_digest& key,
                  const const_blocks& content,
                  thread_pool& threads) {
  std::vector<std::byte> front = expected_front(key, content);
  const auto chunks = cut(content);
  std::atomic<int> failure{0};
  threads.run(static_cast<int>(chunks.size()), [&](int index, int) {
    if (failure.load(std::memory_order_relaxed) != 0) return;
    const auto& one = chunks[static_cast<std::size_t>(index)];
    const std::uint64_t sum = XXH3_64bits(one.bytes.data(), one.bytes.size());
    std::memcpy(checksum_at(front, content.size(), static_cast<std::size_t>(index)), &sum,
                sizeof sum);
    if (!write_all(file, one.offset, one.bytes)) failure = errno != 0 ? errno : EIO;
  });
  const std::uint64_t sum = front_checksum(front);
  std::memcpy(front.data() + offsetof(file_head, checksum), &sum, sizeof sum);
  if (failure == 0 && !write_all(file, 0, front)) failure = errno != 0 ? errno : EIO;
  return failure;
}

// The front as it stands in the file, when it is that of `key` and these lengths.
result<std::vector<std::byte>> read_front(int file,
                                          const sha256_digest& key,
                                          const blocks& content) {
  const error other = corrupt("packed weights", "the file is not what was written");
  struct stat facts {};
  if (::fstat(file, &facts) != 0 || !S_ISREG(facts.st_mode) || facts.st_uid != ::geteuid() ||
      (facts.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
    return corrupt("packed weights", "the file is not a private one");
  }
  std::vector<std::byte> front(head_bytes(content));
  if (static_cast<std::uint64_t>(facts.st_size) != whole_bytes(content) ||
      !read_all(file, 0, front)) {
    return other;
  }
  const auto wanted = expected_front(key, content);
  const std::size_t known = sizeof(file_head) + 8 * content.size();
  const std::uint64_t sum = front_checksum(front);
  if (std::memcmp(front.data(), wanted.data(), offsetof(file_head, checksum)) != 0 ||
      std::memcmp(front.data() + sizeof(file_head), wanted.data() + sizeof(file_head),
                  known - sizeof(file_head)) != 0 ||
      std::memcmp(front.data() + offsetof(file_head, checksum), &sum, sizeof sum) != 0) {
    return other;
  }
  return front;
}

}  // namespace

std::uint64_t packed_file_bytes(const const_blocks& content) noexcept {
  return whole_bytes(content);
}

status write_packed_file(const std::filesystem::path& path,
                         const sha256_digest& key,
                         const const_blocks& content,
                         thread_pool& threads) {
  std::string name = path.string() + ".XXXXXX";
  int failure = 0;
  {
    const descriptor file(::mkostemp(name.data(), O_CLOEXEC));  // mode 0600
    if (file.get() < 0) {
      return error{errc::exhausted, std::string("cannot write: ") + std::strerror(errno),
                   "packed weights"};
    }
    failure = write_content(file.get(), key, content, threads);
  }
  if (failure == 0 && ::rename(name.c_str(), path.c_str()) != 0) failure = errno;
  if (failure == 0) return {};
  ::unlink(name.c_str());
  return error{errc::exhausted, std::string("cannot write: ") + std::strerror(failure),
               "packed weights"};
}

status read_packed_file(const std::filesystem::path& path,
                        const sha256_digest& key,
                        const blocks& content,
                        thread_pool& threads) {
  const descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (file.get() < 0) return error{errc::not_found, std::strerror(errno), "packed weights"};
  auto front = read_front(file.get(), key, content);
  if (!front) return std::move(front).error();
  const auto chunks = cut(content);
  std::atomic<bool> good{true};
  threads.run(static_cast<int>(chunks.size()), [&](int index, int) {
    const auto& one = chunks[static_cast<std::size_t>(index)];
    std::uint64_t wanted = 0;
    std::memcpy(&wanted, checksum_at(*front, content.size(), static_cast<std::size_t>(index)),
                sizeof wanted);
    if (!read_all(file.get(), one.offset, one.bytes) ||
        XXH3_64bits(one.bytes.data(), one.bytes.size()) != wanted) {
      good = false;
    }
  });
  if (!good) return corrupt("packed weights", "a checksum differs");
  return {};
}

}  // namespace foretoken::cpu
