// SPDX-License-Identifier: Apache-2.0
#include "model/tensor_store.hpp"

namespace foretoken::model {

bool tensor_store::add(std::string name, stored_tensor stored) {
  return tensors_.emplace(std::move(name), std::move(stored)).second;
}

const stored_tensor* tensor_store::find(std::string_view name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

}  // namespace foretoken::model
