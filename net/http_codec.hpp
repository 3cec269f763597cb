// SPDX-License-Identifier: Apache-2.0
#pragma once
// HTTP/1.1 requests out of bytes. Boost.Beast's parser reads them, but it alone accepts more than
// the strict profile (line folding, a missing Host, chunk extensions of any size), so every byte is
// screened first and both must agree where a message ends. An error is final: never resynchronised.

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "net/options.hpp"

namespace foretoken::net {

struct http_request {
  std::string method, target, path, body;
  int minor = 1;  // HTTP/1.minor
  bool keep_alive = false;
  bool expects_continue = false;
  bool chunked = false;
  std::uint64_t content_length = 0;
  std::vector<std::pair<std::string, std::string>> fields;  // names in lower case

  const std::string* find(std::string_view name) const noexcept;
  int count(std::string_view name) const noexcept;
  // A comma-separated list field holds this token, ASCII case aside.
  bool list_has(std::string_view name, std::string_view token) const noexcept;
};

struct http_failure {
  int status = 400;
  std::string message;
};

bool same_text(std::string_view a, std::string_view b) noexcept;  // ASCII case aside

class http_codec {
 public:
  enum class progress { more, head, complete, failed };
  explicit http_codec(const options& bounds);
  ~http_codec();

  // Takes bytes from the front of `in`. head: request() has its header, call again for the body.
  // complete: request() is whole and the next call begins another. failed: failure() says why.
  progress consume(std::string& in);
  http_request& request() noexcept { return request_; }
  const http_failure& failure() const noexcept { return failure_; }
  // A message has begun and is not complete.
  bool in_header() const noexcept { return in_header_; }
  bool in_body() const noexcept { return stage_ == stage::body; }

 private:
  enum class stage { header, body, broken };
  struct beast_parser;
  progress fail(int status, std::string message);
  progress consume_header(std::string& in);
  progress consume_body(std::string& in);
  bool screen_line(std::string_view line);
  bool screen_request_line(std::string_view line);
  bool read_head(std::string_view head);
  bool check_framing();
  int screen_chunks(std::string_view bytes);  // 1 ended, 0 more, -1 failed
  bool screen_chunk_line();
  progress finish_body();

  const options& bounds_;
  stage stage_ = stage::header;
  bool in_header_ = false;
  bool blank_seen_ = false;  // an empty line before the request
  http_request request_;
  http_failure failure_;
  std::unique_ptr<beast_parser> parser_;
  std::size_t scanned_ = 0, line_start_ = 0;  // in the header
  int lines_ = 0;
  std::string raw_body_;
  enum class chunk_stage { size, data, data_cr, data_lf, last_cr, last_lf };
  chunk_stage chunk_ = chunk_stage::size;
  std::string chunk_line_;
  std::uint64_t chunk_left_ = 0, body_bytes_ = 0;
  std::size_t body_end_ = 0;
  int chunks_ = 0;
};

}  // namespace foretoken::net
