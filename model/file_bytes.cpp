// SPDX-License-Identifier: Apache-2.0
#include "model/file_bytes.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <utility>

namespace foretoken::model {
namespace {

constexpr std::size_t alignment = 64;
constexpr std::size_t chunk_bytes = std::size_t{8} << 20;

std::int64_t nanoseconds(const timespec& time) noexcept {
  return static_cast<std::int64_t>(time.tv_sec) * 1'000'000'000 + time.tv_nsec;
}

}  // namespace

void aligned_bytes::release::operator()(std::byte* memory) const noexcept {
  ::operator delete (memory, std::align_val_t{alignment});
}

result<aligned_bytes> aligned_bytes::make(std::uint64_t size) {
  aligned_bytes made;
  void* memory = nullptr;
  if (size < (std::uint64_t{1} << 48)) {
    memory = ::operator new (std::max<std::uint64_t>(size, 1), std::align_val_t{alignment},
                             std::nothrow);
  }
  if (memory == nullptr) {
    return error{errc::exhausted, "no memory for " + std::to_string(size) + " bytes"};
  }
  made.memory_.reset(static_cast<std::byte*>(memory));
  made.size_ = size;
  return made;
}

// O_NONBLOCK: opening a pipe must not wait for a writer.
result<readable_file> readable_file::open(const std::filesystem::path& path) {
  const std::string name = path.filename().string();
  readable_file file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK), name);
  if (file.descriptor_ < 0) {
    return error{errc::not_found, std::string("cannot open: ") + std::strerror(errno), name};
  }
  if (const auto identity = file.identity(); !identity) return identity.error();
  return file;
}

readable_file::readable_file(readable_file&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)), name_(std::move(other.name_)) {}

readable_file::~readable_file() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

result<file_identity> readable_file::identity() const {
  struct stat facts {};
  if (::fstat(descriptor_, &facts) != 0 || !S_ISREG(facts.st_mode)) {
    return corrupt(name_, "this is not a regular file");
  }
  return file_identity{facts.st_dev, facts.st_ino, static_cast<std::uint64_t>(facts.st_size),
                       nanoseconds(facts.st_mtim), nanoseconds(facts.st_ctim)};
}

status readable_file::read(std::uint64_t offset, std::span<std::byte> to) const {
  while (!to.empty()) {
    const auto got = ::pread(descriptor_, to.data(), std::min(to.size(), chunk_bytes),
                             static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return corrupt(name_, std::string("cannot read: ") + std::strerror(errno));
    if (got == 0) return corrupt(name_, "the file became shorter while it was read");
    offset += static_cast<std::uint64_t>(got);
    to = to.subspan(static_cast<std::size_t>(got));
  }
  return {};
}

result<std::uint64_t> size_of_file(const std::filesystem::path& path) {
  const auto file = readable_file::open(path);
  if (!file) return file.error();
  const auto identity = file->identity();
  if (!identity) return identity.error();
  return identity->size;
}

result<aligned_bytes> read_file(const std::filesystem::path& path,
                                std::uint64_t bytes_max,
                                const chunk_seen& seen,
                                file_identity* identity) {
  const std::string name = path.filename().string();
  const auto file = readable_file::open(path);
  if (!file) return file.error();
  const auto before = file->identity();
  if (!before) return before.error();
  if (before->size > bytes_max) {
    return unsupported(name, "larger than the " + std::to_string(bytes_max) + " bytes allowed");
  }
  auto memory = aligned_bytes::make(before->size);
  if (!memory) return error{memory.error().code, memory.error().message, name};
  const std::span<std::byte> all = memory->bytes();
  for (std::size_t at = 0; at < all.size(); at += chunk_bytes) {
    const auto chunk = all.subspan(at, std::min(chunk_bytes, all.size() - at));
    FORETOKEN_TRY(file->read(at, chunk));
    if (seen) seen(chunk);
  }
  const auto after = file->identity();
  if (!after || !after->same_content(*before)) {
    return corrupt(name, "the file changed while it was read");
  }
  if (identity != nullptr) *identity = *after == *before ? *before : file_identity{};
  return memory;
}

}  // namespace foretoken::model
