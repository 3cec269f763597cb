// SPDX-License-Identifier: Apache-2.0
#include "model/file_bytes.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>

namespace foretoken::model {
namespace {

constexpr std::size_t alignment = 64;
constexpr std::size_t chunk_bytes = std::size_t{8} << 20;

class open_file {
 public:
  // O_NONBLOCK: opening a pipe must not wait for a writer.
  explicit open_file(const std::filesystem::path& path)
      : descriptor_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {}
  open_file(const open_file&) = delete;
  open_file& operator=(const open_file&) = delete;
  ~open_file() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  int descriptor() const noexcept { return descriptor_; }

 private:
  int descriptor_;
};

result<std::uint64_t> regular_size(const open_file& file, const std::string& name) {
  if (file.descriptor() < 0) {
    return error{errc::not_found, std::string("cannot open: ") + std::strerror(errno), name};
  }
  struct stat facts {};
  if (::fstat(file.descriptor(), &facts) != 0 || !S_ISREG(facts.st_mode)) {
    return corrupt(name, "this is not a regular file");
  }
  return static_cast<std::uint64_t>(facts.st_size);
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

result<std::uint64_t> size_of_file(const std::filesystem::path& path) {
  return regular_size(open_file(path), path.filename().string());
}

result<aligned_bytes> read_file(const std::filesystem::path& path,
                                std::uint64_t bytes_max,
                                const chunk_seen& seen) {
  const std::string name = path.filename().string();
  const open_file file(path);
  const auto size = regular_size(file, name);
  if (!size) return size.error();
  if (*size > bytes_max) {
    return error{errc::exhausted, "larger than the " + std::to_string(bytes_max) + " bytes allowed",
                 name};
  }
  auto memory = aligned_bytes::make(*size);
  if (!memory) return error{memory.error().code, memory.error().message, name};
  std::span<std::byte> left = memory->bytes();
  while (!left.empty()) {
    const auto got = ::read(file.descriptor(), left.data(), std::min(left.size(), chunk_bytes));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return corrupt(name, std::string("cannot read: ") + std::strerror(errno));
    if (got == 0) return corrupt(name, "the file became shorter while it was read");
    const auto count = static_cast<std::size_t>(got);
    if (seen) seen(left.first(count));
    left = left.subspan(count);
  }
  return memory;
}

}  // namespace foretoken::model
