// SPDX-License-Identifier: Apache-2.0
// Replaces operator new in this program only: what a parser takes is counted and bounded.
#include <cstdio>
#include <cstdlib>
#include <new>

#include "tests/fuzz/mutator.hpp"

namespace {

thread_local std::uint64_t taken = 0;

void* take(std::size_t bytes) {
  if (bytes > foretoken::test::allocation_bytes_max) {
    std::fprintf(stderr, "fuzz: one allocation of %zu bytes\n", bytes);
    std::abort();
  }
  taken += bytes;
  void* memory = std::malloc(bytes == 0 ? 1 : bytes);
  if (memory == nullptr) std::abort();
  return memory;
}

}  // namespace

namespace foretoken::test {
std::uint64_t allocated_bytes() noexcept {
  return taken;
}
}  // namespace foretoken::test

void* operator new(std::size_t bytes) {
  return take(bytes);
}
void* operator new[](std::size_t bytes) {
  return take(bytes);
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete[](void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}
void operator delete[](void* memory, std::size_t) noexcept {
  std::free(memory);
}
