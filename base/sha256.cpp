// SPDX-License-Identifier: Apache-2.0
#include "base/sha256.hpp"

#include <openssl/evp.h>

namespace foretoken {

struct sha256::state {
  struct release {
    void operator()(EVP_MD_CTX* context) const noexcept { EVP_MD_CTX_free(context); }
  };
  std::unique_ptr<EVP_MD_CTX, release> context{EVP_MD_CTX_new()};
  bool good = false;
};

sha256::sha256() : state_(std::make_unique<state>()) {
  state_->good =
      state_->context && EVP_DigestInit_ex(state_->context.get(), EVP_sha256(), nullptr) == 1;
}
sha256::~sha256() = default;
sha256::sha256(sha256&&) noexcept = default;

void sha256::add(std::span<const std::byte> bytes) {
  state_->good =
      state_->good && EVP_DigestUpdate(state_->context.get(), bytes.data(), bytes.size()) == 1;
}

std::optional<sha256_digest> sha256::finish() {
  sha256_digest digest{};
  unsigned length = 0;
  auto* const to = reinterpret_cast<unsigned char*>(digest.data());
  const bool done = state_->good && EVP_DigestFinal_ex(state_->context.get(), to, &length) == 1 &&
                    length == digest.size();
  state_->good = false;
  return done ? std::optional(digest) : std::nullopt;
}

std::string hex(std::span<const std::byte> bytes) {
  constexpr char digits[] = "0123456789abcdef";
  std::string out;
  out.reserve(2 * bytes.size());
  for (const std::byte each : bytes) {
    out += digits[std::to_integer<unsigned>(each) >> 4];
    out += digits[std::to_integer<unsigned>(each) & 15u];
  }
  return out;
}

}  // namespace foretoken
