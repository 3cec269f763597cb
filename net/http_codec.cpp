// SPDX-License-Identifier: Apache-2.0
#include "net/http_codec.hpp"

#include <algorithm>
#include <charconv>
#include <limits>
#include <optional>

#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>

namespace foretoken::net {
namespace {

namespace http = boost::beast::http;

bool is_token_char(char c) noexcept {
  const bool alnum = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
  return alnum ||
         (c != '\0' && std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos);
}
bool is_token(std::string_view text) noexcept {
  return !text.empty() && std::all_of(text.begin(), text.end(), is_token_char);
}
char lower(char c) noexcept {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
}

std::string_view trim(std::string_view text) noexcept {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

}  // namespace

bool same_text(std::string_view a, std::string_view b) noexcept {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(),
                                            [](char x, char y) { return lower(x) == lower(y); });
}

const std::string* http_request::find(std::string_view name) const noexcept {
  for (const auto& [key, value] : fields) {
    if (key == name) return &value;
  }
  return nullptr;
}
int http_request::count(std::string_view name) const noexcept {
  return static_cast<int>(std::count_if(fields.begin(), fields.end(),
                                        [&](const auto& field) { return field.first == name; }));
}
bool http_request::list_has(std::string_view name, std::string_view token) const noexcept {
  for (const auto& [key, value] : fields) {
    if (key != name) continue;
    std::string_view rest = value;
    while (true) {
      const auto comma = rest.find(',');
      if (same_text(trim(rest.substr(0, comma)), token)) return true;
      if (comma == std::string_view::npos) break;
      rest.remove_prefix(comma + 1);
    }
  }
  return false;
}

struct http_codec::beast_parser {
  http::request_parser<http::string_body> parser;
};

http_codec::http_codec(const options& bounds) : bounds_(bounds) {}
http_codec::~http_codec() = default;

http_codec::progress http_codec::fail(int status, std::string message) {
  if (stage_ != stage::broken) failure_ = {status, std::move(message)};
  stage_ = stage::broken;
  in_header_ = false;
  return progress::failed;
}

http_codec::progress http_codec::consume(std::string& in) {
  if (stage_ == stage::broken) return progress::failed;
  return stage_ == stage::header ? consume_header(in) : consume_body(in);
}

http_codec::progress http_codec::consume_header(std::string& in) {
  for (; scanned_ < in.size(); ++scanned_) {
    const char c = in[scanned_];
    const bool after_cr = scanned_ > 0 && in[scanned_ - 1] == '\r';
    if (after_cr != (c == '\n')) return fail(400, "a line must end with CR LF");
    const auto byte = static_cast<unsigned char>(c);
    if ((byte < 0x20 && c != '\t' && c != '\r' && c != '\n') || byte == 0x7f) {
      return fail(400, "control character in the header");
    }
    // A TLS or binary hello is refused at its first byte, not after a deadline.
    if (scanned_ == 0 && !is_token_char(c) && c != '\r') return fail(400, "not an HTTP request");
    if (lines_ == 0 && scanned_ > bounds_.request_line_bytes_max)
      return fail(414, "request line too long");
    if (scanned_ >= bounds_.header_bytes_max) return fail(431, "header too large");
    if (c != '\n') continue;
    const auto line = std::string_view(in).substr(line_start_, scanned_ - 1 - line_start_);
    if (line.empty() && lines_ > 0) {
      std::string head = in.substr(0, scanned_ + 1);
      in.erase(0, scanned_ + 1);
      scanned_ = line_start_ = 0;
      lines_ = 0;
      in_header_ = false;
      if (!read_head(head)) return progress::failed;
      stage_ = stage::body;
      return progress::head;
    }
    if (line.empty() && !blank_seen_) {  // one empty line before a request: RFC 9112 2.2
      blank_seen_ = true;
      in.erase(0, 2);
      scanned_ = 0;
      return consume_header(in);
    }
    if (!screen_line(line)) return progress::failed;
    ++lines_;
    line_start_ = scanned_ + 1;
  }
  in_header_ = !in.empty();
  return progress::more;
}

bool http_codec::screen_line(std::string_view line) {
  if (lines_ == 0) return screen_request_line(line);
  if (lines_ > bounds_.header_count_max) return fail(431, "too many header fields"), false;
  if (line.front() == ' ' || line.front() == '\t') return fail(400, "folded header line"), false;
  const auto colon = line.find(':');
  if (colon == std::string_view::npos || !is_token(line.substr(0, colon))) {
    return fail(400, "malformed header field"), false;
  }
  return true;
}

bool http_codec::screen_request_line(std::string_view line) {
  const auto first = line.find(' ');
  const auto last = line.rfind(' ');
  if (first == std::string_view::npos || first == last)
    return fail(400, "malformed request line"), false;
  const auto target = line.substr(first + 1, last - first - 1);
  const auto version = line.substr(last + 1);
  const auto visible = [](char c) { return c >= '!' && c <= '~'; };
  const bool good_target = !target.empty() && std::all_of(target.begin(), target.end(), visible);
  if (!is_token(line.substr(0, first)) || !good_target)
    return fail(400, "malformed request line"), false;
  const auto digit = [](char c) { return c >= '0' && c <= '9'; };
  if (version.size() != 8 || !version.starts_with("HTTP/") || !digit(version[5]) ||
      version[6] != '.' || !digit(version[7])) {
    return fail(400, "malformed HTTP version"), false;
  }
  if (version != "HTTP/1.1" && version != "HTTP/1.0") {
    return fail(505, "only HTTP/1.1 and HTTP/1.0 are spoken here"), false;
  }
  return true;
}

bool http_codec::read_head(std::string_view head) {
  parser_ = std::make_unique<beast_parser>();
  auto& parser = parser_->parser;
  parser.header_limit(static_cast<std::uint32_t>(bounds_.header_bytes_max + 2));
  // Our own bound is checked below; 1.74 takes "none" for a limit of nothing.
  parser.body_limit(std::numeric_limits<std::uint64_t>::max());
  boost::system::error_code failed;
  const auto used = parser.put(boost::asio::buffer(head.data(), head.size()), failed);
  if (failed || used != head.size() || !parser.is_header_done()) {
    return fail(400, "malformed header"), false;
  }
  const auto& message = parser.get();
  request_ = {};
  request_.method = std::string(message.method_string());
  request_.target = std::string(message.target());
  request_.path = request_.target.substr(0, request_.target.find('?'));
  request_.minor = message.version() == 10 ? 0 : 1;
  for (const auto& field : message) {
    std::string name(field.name_string());
    std::transform(name.begin(), name.end(), name.begin(), lower);
    request_.fields.emplace_back(std::move(name), std::string(field.value()));
  }
  blank_seen_ = false;
  raw_body_.clear();
  chunk_ = chunk_stage::size;
  chunk_line_.clear();
  chunks_ = 0;
  body_bytes_ = 0;
  body_end_ = 0;
  return check_framing();
}

bool http_codec::check_framing() {
  auto& made = request_;
  const int hosts = made.count("host");
  if (hosts > 1 || (made.minor == 1 && hosts != 1))
    return fail(400, "exactly one Host is required"), false;
  const int lengths = made.count("content-length");
  const int encodings = made.count("transfer-encoding");
  if (lengths > 1 || encodings > 1 || (lengths != 0 && encodings != 0)) {
    return fail(400, "the length of the body is ambiguous"), false;
  }
  if (encodings == 1) {
    if (made.minor == 0) return fail(400, "Transfer-Encoding needs HTTP/1.1"), false;
    if (!same_text(*made.find("transfer-encoding"), "chunked")) {
      return fail(400, "the only Transfer-Encoding is chunked"), false;
    }
    made.chunked = true;
  }
  if (lengths == 1) {
    const auto& text = *made.find("content-length");
    const auto* end = text.data() + text.size();
    const auto read = std::from_chars(text.data(), end, made.content_length);
    if (text.empty() || text.size() > 18 || read.ec != std::errc{} || read.ptr != end) {
      return fail(400, "malformed Content-Length"), false;
    }
  }
  const bool closes = made.list_has("connection", "close");
  made.keep_alive = !closes && (made.minor == 1 || made.list_has("connection", "keep-alive"));
  made.expects_continue = made.minor == 1 && made.list_has("expect", "100-continue");
  if (made.content_length > bounds_.body_bytes_max) return fail(413, "body too large"), false;
  return true;
}

http_codec::progress http_codec::consume_body(std::string& in) {
  if (!request_.chunked) {
    const auto missing = request_.content_length - raw_body_.size();
    const auto taken = std::min<std::uint64_t>(missing, in.size());
    raw_body_.append(in, 0, taken);
    in.erase(0, taken);
    return taken == missing ? finish_body() : progress::more;
  }
  body_end_ = 0;
  const int ended = screen_chunks(in);
  if (ended < 0) return progress::failed;
  raw_body_.append(in, 0, body_end_);
  in.erase(0, body_end_);
  return ended == 1 ? finish_body() : progress::more;
}

int http_codec::screen_chunks(std::string_view bytes) {
  for (; body_end_ < bytes.size(); ++body_end_) {
    const char c = bytes[body_end_];
    switch (chunk_) {
      case chunk_stage::size:
        if (!chunk_line_.empty() && chunk_line_.back() == '\r') {
          if (c != '\n') return fail(400, "malformed chunk size"), -1;
          chunk_line_.pop_back();
          if (!screen_chunk_line()) return -1;
          break;
        }
        chunk_line_ += c;
        if (c == '\n') return fail(400, "malformed chunk size"), -1;
        if (chunk_line_.size() > 20u + static_cast<unsigned>(bounds_.chunk_extension_bytes_max)) {
          return fail(400, "chunk line too long"), -1;
        }
        break;
      case chunk_stage::data:
        if (--chunk_left_ == 0) chunk_ = chunk_stage::data_cr;
        break;
      case chunk_stage::data_cr:
      case chunk_stage::last_cr:
        // A trailer field would begin here; none is accepted.
        if (c != '\r') return fail(400, "malformed chunk end"), -1;
        chunk_ = chunk_ == chunk_stage::data_cr ? chunk_stage::data_lf : chunk_stage::last_lf;
        break;
      case chunk_stage::data_lf:
        if (c != '\n') return fail(400, "malformed chunk end"), -1;
        chunk_ = chunk_stage::size;
        break;
      case chunk_stage::last_lf:
        if (c != '\n') return fail(400, "malformed chunk end"), -1;
        ++body_end_;
        return 1;
    }
  }
  return 0;
}

bool http_codec::screen_chunk_line() {
  const auto semicolon = chunk_line_.find(';');
  const auto digits = std::string_view(chunk_line_).substr(0, semicolon);
  const auto hex = [](char c) {
    return (c >= '0' && c <= '9') || (lower(c) >= 'a' && lower(c) <= 'f');
  };
  if (digits.empty() || digits.size() > 15 || !std::all_of(digits.begin(), digits.end(), hex)) {
    return fail(400, "malformed chunk size"), false;
  }
  if (semicolon != std::string::npos) {
    const auto extension = std::string_view(chunk_line_).substr(semicolon);
    const auto printable = [](char c) { return (c >= ' ' && c <= '~') || c == '\t'; };
    if (extension.size() > static_cast<std::size_t>(bounds_.chunk_extension_bytes_max) ||
        !std::all_of(extension.begin(), extension.end(), printable)) {
      return fail(400, "chunk extension not accepted"), false;
    }
  }
  std::from_chars(digits.data(), digits.data() + digits.size(), chunk_left_, 16);
  chunk_line_.clear();
  if (++chunks_ > bounds_.chunks_max) return fail(400, "too many chunks"), false;
  body_bytes_ += chunk_left_;
  if (body_bytes_ > bounds_.body_bytes_max) return fail(413, "body too large"), false;
  chunk_ = chunk_left_ == 0 ? chunk_stage::last_cr : chunk_stage::data;
  return true;
}

http_codec::progress http_codec::finish_body() {
  // Screening found the end; Beast must find the same one.
  auto& parser = parser_->parser;
  parser.eager(true);
  std::string_view rest = raw_body_;
  while (!rest.empty() && !parser.is_done()) {
    boost::system::error_code failed;
    const auto used = parser.put(boost::asio::buffer(rest.data(), rest.size()), failed);
    if ((failed && failed != http::error::need_more) || used == 0)
      return fail(400, "malformed body");
    rest.remove_prefix(used);
  }
  if (!rest.empty() || (!raw_body_.empty() && !parser.is_done()))
    return fail(400, "malformed body");
  request_.body = std::move(parser.get().body());
  raw_body_.clear();
  stage_ = stage::header;
  return progress::complete;
}

}  // namespace foretoken::net
