// SPDX-License-Identifier: Apache-2.0
#include "net/connection.hpp"

#include <algorithm>
#include <array>
#include <utility>

namespace foretoken::net {
namespace {

time_point now() {
  return std::chrono::steady_clock::now();
}

void give_buffer(uv_handle_t*, std::size_t, uv_buf_t* out) {
  static thread_local std::array<char, 64u << 10> slab;  // one read at a time on a loop
  *out = uv_buf_init(slab.data(), static_cast<unsigned>(slab.size()));
}

connection& owner(void* data) {
  return *static_cast<connection*>(data);
}

}  // namespace

bool connection::accept(uv_stream_t& listener) {
  if (uv_tcp_init(&core_.loop, &socket_) != 0) return false;
  socket_.data = this;
  write_.data = this;
  core_.connections.insert(this);
  if (uv_accept(&listener, stream()) != 0) {
    close_now();
    return false;
  }
  uv_tcp_nodelay(&socket_, 1);
  progress_ = now();
  return true;
}

void connection::install(std::unique_ptr<protocol> next) {
  if (protocol_) protocol_->open_gauge().add(-1);
  protocol_ = std::move(next);
  if (protocol_) protocol_->open_gauge().add(1);
}

void connection::start(std::unique_ptr<protocol> first) {
  install(std::move(first));
  read_more(true);
}

void connection::refuse(std::string_view farewell) {
  write(farewell);
  read_more(true);
  close_after_flush();
}

void connection::read_more(bool wanted) {
  if (closed_ || saw_eof_ || wanted == reading_) return;
  reading_ = wanted;
  if (!wanted) {
    uv_read_stop(stream());
  } else if (uv_read_start(stream(), give_buffer, on_read) != 0) {
    close_now();
  }
}

void connection::on_read(uv_stream_t* stream, ssize_t count, const uv_buf_t* buffer) {
  auto& self = owner(stream->data);
  if (count == 0) return;
  if (count == UV_EOF) {
    self.read_more(false);
    self.saw_eof_ = true;
    if (self.shut_ || self.protocol_ == nullptr) {
      self.close_now();
    } else if (!self.finishing_) {
      self.protocol_->on_eof();
      self.touch();
    }
  } else if (count < 0) {
    self.close_now();  // reset: its requests are cancelled when the protocol dies
  } else if (!self.closing() && self.protocol_ != nullptr) {
    self.feed({buffer->base, static_cast<std::size_t>(count)});
    self.touch();
  }
  self.core_.settle();
  self.core_.stay_awake();
}

void connection::feed(std::string_view bytes) {
  protocol_->on_data(bytes);
  while (next_ != nullptr) {
    install(std::move(next_));
    const auto rest = std::exchange(rest_, {});
    if (!rest.empty() && !closing()) protocol_->on_data(rest);
  }
}

void connection::replace_protocol(std::unique_ptr<protocol> next, std::string rest) {
  next_ = std::move(next);
  rest_ = std::move(rest);
  touch();
}

std::size_t connection::pending_bytes() const noexcept {
  return out_.size() +
         uv_stream_get_write_queue_size(reinterpret_cast<const uv_stream_t*>(&socket_));
}

bool connection::output_full() const noexcept {
  return pending_bytes() > core_.bounds.output_soft_bytes;
}

std::size_t connection::unread_stream_bytes() {
  const auto taken = taken_bytes();
  std::erase_if(large_, [&](const auto& message) { return message.end <= taken; });
  auto counted = pending_bytes();
  for (const auto& [end, bytes] : large_) {
    counted -= static_cast<std::size_t>(std::min<std::uint64_t>(bytes, end - taken));
  }
  return counted;
}

void connection::write(std::string_view message) {
  if (closed_ || (finishing_ && shut_)) return;
  out_ += message;
  written_bytes_ += message.size();
  if (message.size() > core_.bounds.output_soft_bytes) {
    large_.push_back({written_bytes_, message.size()});
  }
  touch();
}

void connection::settle() {
  if (next_ != nullptr) feed({});
  if (protocol_ != nullptr && !closing()) protocol_->on_settle();
  if (next_ != nullptr) feed({});
  const bool was_full = output_full();
  flush();
  // What left at once is announced by no callback: what the protocol held back goes on now.
  if (was_full && !closed_ && !output_full()) touch();
}

void connection::flush() {
  if (closed_) return;
  if (!out_.empty() && writing_.empty()) {
    auto buffer = uv_buf_init(out_.data(), static_cast<unsigned>(out_.size()));
    const int sent = uv_try_write(stream(), &buffer, 1);
    if (sent < 0 && sent != UV_EAGAIN) return close_now();
    if (sent > 0) out_.erase(0, static_cast<std::size_t>(sent));
    if (!out_.empty()) {
      writing_.swap(out_);
      auto rest = uv_buf_init(writing_.data(), static_cast<unsigned>(writing_.size()));
      if (uv_write(&write_, stream(), &rest, 1, on_written) != 0) return close_now();
      // Progress is measured from here: until now there was nothing the peer failed to take.
      progress_ = now();
      seen_taken_ = taken_bytes();
    }
  }
  if (unread_stream_bytes() > core_.bounds.output_hard_bytes) {
    core_.metrics().slow_readers.add();
    return close_now();
  }
  finish_output();
}

void connection::on_written(uv_write_t* request, int failed) {
  auto& self = owner(request->data);
  self.writing_.clear();
  if (failed != 0) {
    self.close_now();
  } else {
    self.progress_ = now();
    self.touch();
  }
  self.core_.settle();
}

void connection::close_after_flush() {
  if (closing()) return;
  finishing_ = true;
  finish_by_ = now() + core_.bounds.linger;
  touch();
}

// After the last byte: half-close and wait for the peer, so that a reset cannot eat the answer.
void connection::finish_output() {
  if (!finishing_ || shut_ || pending_bytes() != 0) return;
  shut_ = true;
  finish_by_ = now() + core_.bounds.linger;
  if (saw_eof_ || uv_shutdown(&shutdown_, stream(), [](uv_shutdown_t*, int) {}) != 0)
    return close_now();
  read_more(true);
}

void connection::close_now() {
  if (closed_) return;
  closed_ = true;
  uv_close(reinterpret_cast<uv_handle_t*>(&socket_), on_closed);
}

void connection::on_closed(uv_handle_t* handle) {
  std::unique_ptr<connection> self(&owner(handle->data));
  self->install(nullptr);
  self->core_.forget(*self);
}

void connection::tick(time_point at) {
  if (closed_) return;
  const auto pending = pending_bytes();
  const auto taken = taken_bytes();
  if (pending == 0 || taken > seen_taken_) progress_ = at;
  seen_taken_ = taken;
  if (pending != 0 && at - progress_ > core_.bounds.slow_reader) {
    core_.metrics().slow_readers.add();
    return close_now();
  }
  if (finishing_) {
    if (shut_ && at > finish_by_) close_now();
    return;
  }
  if (protocol_ != nullptr) protocol_->on_tick(at);
}

void connection::stop() {
  if (closing()) return;
  if (protocol_ != nullptr) protocol_->on_stop();
  close_after_flush();
}

}  // namespace foretoken::net
