// SPDX-License-Identifier: Apache-2.0
#pragma once
// What a step needs of the driver: memory, copies, one stream, recorded steps. Two implementations:
// runtime_cuda.cpp on the device, runtime_host.cpp on the processor (with the kernels emulated), so
// that everything above is tested without a GPU.
//
// Any failure but a full memory ends its device for this process: lost() stays true and no call for
// it reaches the driver any more, not even to free what is held. Other devices go on. A thread
// works with one device, that of its last use_device(), else the first.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "gpu/kernels.hpp"
#include "gpu/library.hpp"

namespace foretoken::gpu::runtime {

inline constexpr int devices_max = 256;
int device_of_thread() noexcept;
void set_device_of_thread(int ordinal) noexcept;  // use_device()'s part that needs no driver

bool lost() noexcept;  // the thread's device
bool lost(int ordinal) noexcept;
error lose(std::string why);  // marks the thread's device as lost; the error to return
void find_again();            // tests lose devices more than once

result<std::vector<device_facts>> list_devices();
// Makes `ordinal` the device of this thread. Needed once a thread.
status use_device(int ordinal);
struct memory_state {
  std::uint64_t free_bytes = 0, total_bytes = 0;
};
result<memory_state> device_memory();
int multiprocessors(int ordinal);
int shared_bytes_max(int ordinal);  // of one block, on request
bool wide_mma(int ordinal);         // has the wide matrix instruction (launch_context)

enum class place { device, pinned };

// Owns its memory; only moves. Device memory is zero at the start.
class buffer {
 public:
  static result<buffer> take(place where, std::size_t bytes);  // errors: exhausted, device
  buffer() = default;
  buffer(buffer&& other) noexcept;
  buffer& operator=(buffer&& other) noexcept;
  ~buffer();
  std::byte* data() const noexcept { return data_; }
  std::size_t bytes() const noexcept { return bytes_; }

 private:
  place where_ = place::device;
  int ordinal_ = device_of_thread();  // freed by any thread
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

// One queue of work on the device of the thread that made it.
class stream {
 public:
  static result<stream> make();
  stream() = default;
  stream(stream&& other) noexcept;
  stream& operator=(stream&& other) noexcept;
  ~stream();
  stream_handle handle() const noexcept { return handle_; }
  // Copies are queued; pinned memory must stay as it is until wait() returned.
  status upload(void* to, const void* from, std::size_t bytes) const;
  status download(void* to, const void* from, std::size_t bytes) const;
  status wait() const;  // until all that was queued is done
  // Until `*flag` in pinned memory is `value`, which work that was queued last will set: sooner
  // than wait().
  status wait_for(const std::uint32_t* flag, std::uint32_t value) const;
  // wait_for() would not wait, or would fail.
  bool reached(const std::uint32_t* flag, std::uint32_t value) noexcept;

 private:
  stream_handle handle_ = nullptr;
  unsigned looks_ = 0;  // since the driver was asked
};

// Work that was queued once and can be queued again at the price of one call.
class recording {
 public:
  // `work` only queues kernels and copies on `on`; it is not run yet.
  static result<recording> make(const stream& on, std::function<status()> work);
  recording() = default;
  recording(recording&& other) noexcept;
  recording& operator=(recording&& other) noexcept;
  ~recording();
  status replay(const stream& on) const;

 private:
  void* graph_ = nullptr;         // cudaGraphExec_t
  std::function<status()> work_;  // without a driver: the work itself
};

}  // namespace foretoken::gpu::runtime
