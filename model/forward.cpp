// SPDX-License-Identifier: Apache-2.0
#include "model/forward.hpp"

namespace foretoken::model {

result<step_result> forward(ops& device, const micro_batch& batch) {
  FORETOKEN_TRY(device.begin(batch));
  device.embed();
  for (int layer = 0; layer < device.shape().layers; ++layer) {
    device.attention_input(layer);
    device.attention(layer);
    device.attention_output(layer);
    device.ffn_input(layer);
    device.ffn_output(layer);
  }
  step_result out;
  out.step = batch.step;
  FORETOKEN_TRY(device.head(out));
  return out;
}

}  // namespace foretoken::model
