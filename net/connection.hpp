// SPDX-License-Identifier: Apache-2.0
#pragma once
// One socket: bytes in to its protocol, bytes out with bounds. Lives on the loop's thread; owned by
// its libuv handle, freed in the close callback.
//
// Output has two bounds. Above the soft one (output_full) the protocol begins nothing new for this
// peer; on_settle comes again once there is room. The hard one is about a peer that does not read
// while a stream goes on: beyond it the peer is cut. One message larger than the soft bound (a
// whole answer, an echoed prompt with its scores) does not count against the hard one, because its
// request bounds it and nothing new is begun behind it.
//
// Invariants: 1. at most one libuv write is under way, the rest waits in out_; 2. once closing, no
// byte reaches the protocol; 3. the protocol dies with the connection and gives up its requests
// then.

#include <uv.h>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/counters.hpp"
#include "net/loop.hpp"

namespace foretoken::net {

class protocol {
 public:
  virtual ~protocol() = default;
  virtual void on_data(std::string_view bytes) = 0;
  virtual void on_eof() = 0;  // the peer will send no more
  // End of a turn in which the connection was touched, or its output fell to the soft bound.
  virtual void on_settle() = 0;
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

  void write(std::string_view message);
  // Takes effect when the protocol's current call returns; `rest` is what it has not read.
  void replace_protocol(std::unique_ptr<protocol> next, std::string rest);
  void close_after_flush();  // what is written still leaves
  void close_now();
  void read_more(bool wanted);
  std::size_t pending_bytes() const noexcept;
  bool output_full() const noexcept;  // above the soft bound
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
  std::uint64_t taken_bytes() const noexcept { return written_bytes_ - pending_bytes(); }
  std::size_t unread_stream_bytes();  // pending, without large messages
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
  std::uint64_t written_bytes_ = 0, seen_taken_ = 0;
  struct large_message {
    std::uint64_t end;  // in written_bytes_
    std::size_t bytes;
  };
  std::vector<large_message> large_;  // not wholly taken yet
  time_point progress_{}, finish_by_{};
};

}  // namespace foretoken::net
