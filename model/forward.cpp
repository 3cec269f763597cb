// SPDX-License-Identifier: Apache-2.0
#include "model/forward.hpp"

namespace foretoken::model {

status queue(ops& device, const micro_batch& batch, step_result& out) {
  FORETOKEN_TRY(device.begin(batch));
  device.embed();
  for (int layer = 0; layer < device.shape().layers; ++layer) {
    device.attention_input(layer);
    device.attention(layer);
    device.attention_output(layer);
    device.ffn_input(layer);
    device.ffn_output(layer);
  }
  out.step = batch.step;
  return device.head(out);
}

result<step_result> forward(ops& device, const micro_batch& batch) {
  step_result out;
  FORETOKEN_TRY(queue(device, batch, out));
  FORETOKEN_TRY(device.finish(out));
  return out;
}

}  // namespace foretoken::model
