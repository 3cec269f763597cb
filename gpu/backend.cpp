// SPDX-License-Identifier: Apache-2.0
// The device library's side of library.hpp: what the program opens.
#include "gpu/backend.hpp"

#include "gpu/memory.hpp"
#include "gpu/step.hpp"
#include "model/forward.hpp"

namespace foretoken::gpu {
namespace {

// A prompt and its next token through the whole network: shapes that a kernel refuses show here,
// and what the driver loads on first use is loaded, on the path of prefill and on that of decode
// steps, with log-probabilities and without.
status try_out(model::ops& made) {
  model::sampling_parameters greedy;
  greedy.temperature = 0;
  model::slice one;
  one.pages = {page_id{0}};
  one.sample_last = true;
  for (const int count : {2, 1}) {
    greedy.logprobs = count == 2 ? 0 : -1;
    one.sampling = std::make_shared<const model::sampling_parameters>(greedy);
    one.tokens.assign(static_cast<std::size_t>(count), token{0});
    model::micro_batch batch;
    batch.slices.push_back(one);
    auto done = model::forward(made, batch);
    if (!done) return std::move(done).error();
    one.position += count;
  }
  return {};
}

class linked_library final : public library {
 public:
  result<std::vector<device_facts>> devices() const override { return runtime::list_devices(); }

  result<memory_plan> plan_memory(const model::model_file& file,
                                  const options& chosen) const override {
    return plan(file, chosen);
  }

  result<std::shared_ptr<const weights>> prepare_weights(
      const model::model_file& file,
      const options& chosen,
      const model::load_progress& progress) const override {
    FORETOKEN_TRY(runtime::use_device(chosen.device));
    const auto needed = plan(file, chosen);
    if (!needed) return needed.error();
    const auto there = runtime::device_memory();
    if (!there) return there.error();
    const std::uint64_t bytes = needed->total_bytes() - needed->context_bytes;  // that one is taken
    if (bytes > there->free_bytes) {
      return error{errc::exhausted, "the device has " + std::to_string(there->free_bytes >> 20) +
                                        " MiB free and the model needs " +
                                        std::to_string(bytes >> 20) + " MiB"};
    }
    auto padded = padded_shape(file.shape);
    if (!padded) return std::move(padded).error();
    return load_weights(file, chosen, usable_context(*padded, chosen), progress);
  }

  std::string decode_path(const weights& of) const override { return of.decode_path; }

  result<std::unique_ptr<model::ops>> make_ops(std::shared_ptr<const weights> from,
                                               const options& chosen) const override {
    options quiet = chosen;
    if (quiet.fail_at_step > 0) quiet.fail_at_step += 2;  // the tries are no steps of anybody's
    auto made = step::make(std::move(from), quiet);
    if (!made) return std::move(made).error();
    FORETOKEN_TRY(try_out(**made));
    FORETOKEN_TRY((*made)->record_usual());
    return std::unique_ptr<model::ops>(*std::move(made));
  }

  bool lost(int ordinal) const noexcept override { return runtime::lost(ordinal); }
};

}  // namespace

const library& linked() {
  static const linked_library only;
  return only;
}

}  // namespace foretoken::gpu
