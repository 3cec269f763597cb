// SPDX-License-Identifier: Apache-2.0
#pragma once
// The tensors of a file by name, before anyone knows what they are for.

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/tensor.hpp"

namespace foretoken::model {

struct stored_tensor {
  std::optional<dtype> type;         // none: a type we cannot compute with
  std::string type_name;             // as the file calls it
  std::vector<std::uint64_t> shape;  // outermost first
  std::span<const std::byte> bytes;  // exactly as many as type and shape say
};

class tensor_store {
 public:
  // false when the name is taken.
  bool add(std::string name, stored_tensor stored);
  const stored_tensor* find(std::string_view name) const;
  const std::map<std::string, stored_tensor, std::less<>>& all() const noexcept { return tensors_; }

 private:
  std::map<std::string, stored_tensor, std::less<>> tensors_;
};

}  // namespace foretoken::model
