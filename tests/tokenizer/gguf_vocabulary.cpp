// SPDX-License-Identifier: Apache-2.0
#include "gguf_vocabulary.hpp"

#include <array>
#include <fstream>
#include <stdexcept>

namespace foretoken::tokenizer::test {
namespace {

enum gguf_type : std::uint32_t { string_type = 8, array_type = 9 };

class reader {
 public:
  explicit reader(const std::string& path) : file_(path, std::ios::binary) {}

  template <class T>
  T number() {
    std::array<char, sizeof(T)> raw{};
    read(raw.data(), raw.size());
    T value{};
    __builtin_memcpy(&value, raw.data(), sizeof value);
    return value;
  }
  std::string text() {
    std::string out(number<std::uint64_t>(), '\0');
    read(out.data(), out.size());
    return out;
  }
  void skip(std::uint32_t type) {
    constexpr std::array<std::uint8_t, 13> sizes{1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    if (type == string_type) {
      text();
    } else if (type == array_type) {
      const auto element = number<std::uint32_t>();
      for (auto n = number<std::uint64_t>(); n > 0; --n) skip(element);
    } else {
      file_.ignore(sizes.at(type));
    }
  }

 private:
  void read(char* to, std::size_t size) {
    if (!file_.read(to, static_cast<std::streamsize>(size))) throw std::runtime_error("short GGUF");
  }
  std::ifstream file_;
};

std::vector<std::string> strings(reader& in) {
  in.number<std::uint32_t>();
  std::vector<std::string> out(in.number<std::uint64_t>());
  for (auto& text : out) text = in.text();
  return out;
}

std::vector<token_kind> kinds(reader& in) {
  using enum token_kind;
  constexpr std::array<token_kind, 7> by_number{unused,       normal, unknown, control,
                                                user_defined, unused, byte};
  in.number<std::uint32_t>();
  std::vector<token_kind> out(in.number<std::uint64_t>());
  for (auto& kind : out) kind = by_number.at(in.number<std::uint32_t>());
  return out;
}

}  // namespace

gguf_tokenizer read_gguf_tokenizer(const std::string& path) {
  reader in(path);
  gguf_tokenizer out;
  in.number<std::uint64_t>();  // magic and version
  in.number<std::uint64_t>();  // tensors
  for (auto keys = in.number<std::uint64_t>(); keys > 0; --keys) {
    const std::string key = in.text();
    const auto type = in.number<std::uint32_t>();
    if (key == "tokenizer.ggml.tokens") {
      out.spec.pieces = strings(in);
    } else if (key == "tokenizer.ggml.token_type") {
      out.spec.kinds = kinds(in);
    } else if (key == "tokenizer.ggml.merges") {
      for (const std::string& merge : strings(in)) {
        const auto space = merge.find(' ', 1);
        out.spec.merges.emplace_back(merge.substr(0, space), merge.substr(space + 1));
      }
    } else if (key == "tokenizer.ggml.bos_token_id") {
      out.spec.bos = static_cast<token>(in.number<std::uint32_t>());
    } else if (key == "tokenizer.ggml.eos_token_id") {
      out.spec.eos = static_cast<token>(in.number<std::uint32_t>());
    } else if (key == "tokenizer.chat_template") {
      out.chat_template = in.text();
    } else {
      in.skip(type);
    }
  }
  out.spec.pre = pre_tokenizer::smollm;
  return out;
}

}  // namespace foretoken::tokenizer::test
