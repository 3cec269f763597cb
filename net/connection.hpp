// SPDX-License-Identifier: Apache-2.0
#pragma once
// One socket: bytes in to its protocol, bytes out with bounds. Lives on the loop's thread; owned by
// its libuv handle, freed in the close callback.
//
// Invariants: 1. at most one libuv write is under way, the rest waits in out_; 2. once closing, no
// byte reaches the protocol; 3. the protocol dies with the connection and gives up its requests
// then.

#include <uv.h>

#include <memory>
#include <string>
#include <string_view>

#include "base/counters.hpp"
#include "net/loop.hpp"

namespace foretoken::net {

class protocol {
 public:
  virtual ~protocol() = default;
  virtual void on_data(std::string_view bytes) = 0;
  virtual void on_eof() = 0;     // the peer will send no more
  virtual void on_settle() = 0;  // end of a turn in which the connection was touched
  virtual void on_tick(time_point now) = 0;
  virtual void on_stop() = 0;  // the server is going: say goodbye
  virtual gauge& open_gauge() noexcept = 0;
};

class connection {
 public:
  explicit connection(loop_core& core) : core_(core) {}
  // Takes the waiting socket; false when it is gone already (the object frees itself).
  bool accept(uv_stream_t& listener);
  void start(std::unique_ptr<protocol> first);
  void refuse(std::string_view farewell);  // instead of start

  void write(std::string_view bytes);
  // Takes effect when the protocol's current call returns; `rest` is what it has not read.
  void replace_protocol(std::unique_ptr<protocol> next, std::string rest);
  void close_after_flush();  // what is written still leaves
  void close_now();
  void read_more(bool wanted);
  std::size_t pending_bytes() const noexcept;
  bool closing() const noexcept { return finishing_ || closed_; }
  void touch() { core_.touch(*this); }

  // For the loop.
  void settle();
  void tick(time_point now);
  void stop();
  bool touched = false;

 private:
  static void on_read(uv_stream_t* stream, ssize_t count, const uv_buf_t* buffer);
  static void on_closed(uv_handle_t* handle);
  static void on_written(uv_write_t* request, int failed);
  void feed(std::string_view bytes);
  void install(std::unique_ptr<protocol> next);
  void flush();
  void finish_output();
  uv_stream_t* stream() noexcept { return reinterpret_cast<uv_stream_t*>(&socket_); }

  loop_core& core_;
  uv_tcp_t socket_{};
  uv_write_t write_{};
  uv_shutdown_t shutdown_{};
  std::unique_ptr<protocol> protocol_, next_;
  std::string rest_;
  std::string out_, writing_;
  bool reading_ = false, saw_eof_ = false, finishing_ = false, shut_ = false, closed_ = false;
  std::size_t seen_pending_ = 0;
  time_point progress_{}, finish_by_{};
};

}  // namespace foretoken::net
