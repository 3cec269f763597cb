// SPDX-License-Identifier: Apache-2.0
#include "net/http_session.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>

#include "net/answer_json.hpp"
#include "net/http_answers.hpp"
#include "net/websocket.hpp"

namespace foretoken::net {
namespace {

time_point now() {
  return std::chrono::steady_clock::now();
}

// Read ahead of a running answer or of output that waits: enough to hear of a close.
constexpr std::size_t pipelined_bytes_max = 64u << 10;

struct route_row {
  const char* path;
  const char* method;
};
constexpr std::array routes{
    route_row{"/v1/completions", "POST"}, route_row{"/v1/chat/completions", "POST"},
    route_row{"/tokenize", "POST"},       route_row{"/detokenize", "POST"},
    route_row{"/v1/models", "GET"},       route_row{"/healthz", "GET"},
    route_row{"/readyz", "GET"},          route_row{"/metrics", "GET"},
    route_row{"/v1/stream", "GET"},
};

const route_row* find_route(std::string_view path) {
  if (path.starts_with("/v1/models/")) path = "/v1/models";
  for (const auto& row : routes) {
    if (path == row.path) return &row;
  }
  return nullptr;
}

const char* reason_of(int status) {
  switch (status) {
    case 200: return "OK";
    case 400: return "Bad Request";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 408: return "Request Timeout";
    case 413: return "Content Too Large";
    case 414: return "URI Too Long";
    case 415: return "Unsupported Media Type";
    case 417: return "Expectation Failed";
    case 426: return "Upgrade Required";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 499: return "Request Cancelled";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    case 505: return "HTTP Version Not Supported";
    default: return "Internal Server Error";
  }
}

bool json_type(std::string_view type) {
  return same_text(type.substr(0, 16), "application/json") &&
         (type.size() == 16 || type[16] == ';' || type[16] == ' ');
}

// `authority` is the address that we listen on: HOST:PORT.
bool is_own_host(std::string_view host, std::string_view authority) {
  const auto port = authority.substr(authority.rfind(':'));
  const auto bound = authority.substr(0, authority.size() - port.size());
  for (const std::string_view name : {bound, {"localhost"}, {"127.0.0.1"}, {"[::1]"}}) {
    if (host.size() < name.size() || !same_text(host.substr(0, name.size()), name)) continue;
    const auto rest = host.substr(name.size());
    if (rest.empty() || rest == port) return true;
  }
  return false;
}

// "%20" and the like as the bytes they stand for; what is none of these stays.
std::string percent_decoded(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    unsigned byte = 0;
    const auto* digits = text.data() + i + 1;
    const bool escape =
        text[i] == '%' && i + 2 < text.size() &&
        std::from_chars(digits, digits + 2, byte, 16) == std::from_chars_result{digits + 2, {}};
    out += escape ? static_cast<char>(byte) : text[i];
    if (escape) i += 2;
  }
  return out;
}

bool listed(const std::vector<std::string>& list, std::string_view value) {
  return std::any_of(list.begin(), list.end(),
                     [&](const auto& item) { return same_text(item, value); });
}

}  // namespace

http_session::http_session(loop_core& core, connection& peer)
    : core_(core), peer_(peer), codec_(core.bounds), quiet_since_(now()) {}

void http_session::on_data(std::string_view bytes) {
  in_ += bytes;
  body_pace_.add(bytes.size());
  pump();
}

void http_session::pump() {
  if (pumping_) return;
  pumping_ = true;
  while (!answering_ && !last_ && !peer_.closing() && !peer_.output_full()) {
    const auto step = codec_.consume(in_);
    const bool open = codec_.in_header() || codec_.in_body();
    if (open && !message_open_) header_begun_ = now();
    message_open_ = open;
    if (step == http_codec::progress::more) break;
    if (step == http_codec::progress::failed) {
      refuse_and_close(codec_.failure().status, codec_.failure().message);
    } else if (step == http_codec::progress::head) {
      body_pace_.begin(now(), in_.size());
      http10_ = codec_.request().minor == 0;
      keep_ = codec_.request().keep_alive;
      head_only_ = codec_.request().method == "HEAD";
      admitted_ = admit();
      if (admitted_ && codec_.request().expects_continue && in_.empty() &&
          (codec_.request().chunked || codec_.request().content_length != 0)) {
        peer_.write("HTTP/1.1 100 Continue\r\n\r\n");
      }
    } else if (admitted_) {
      message_open_ = false;
      answering_ = true;
      done_ = false;
      handle();
      if (done_) answering_ = false, answer_.reset();
    }
    if (step == http_codec::progress::complete) head_only_ = false;
  }
  pumping_ = false;
  const bool waits = answering_ || peer_.output_full();
  peer_.read_more(!waits || in_.size() <= pipelined_bytes_max);
}

void http_session::on_settle() {
  if (done_ && answering_) {
    answering_ = false;
    answer_.reset();
  }
  pump();
  if (!saw_eof_) return;
  // A closed connection cannot be told from one that is only half closed: either cancels what runs.
  // What was answered at once, and pipelined before the end, still leaves.
  if (answering_) abandon_answer();
  if (last_ || !peer_.output_full()) peer_.close_after_flush();
}

void http_session::abandon_answer() {
  answer_.reset();
  answering_ = false;
  last_ = true;
}

void http_session::on_eof() {
  saw_eof_ = true;
}

void http_session::on_tick(time_point at) {
  const auto& bounds = core_.bounds;
  if (answering_) return;
  if (peer_.output_full()) {
    // We do not read, so the peer cannot be late.
    header_begun_ = quiet_since_ = at;
    body_pace_.begin(at, 0);
    return;
  }
  if (codec_.in_body()) {
    if (body_pace_.too_slow(at, bounds.body_stall)) {
      refuse_and_close(408, "the body did not arrive in time");
    }
  } else if (codec_.in_header()) {
    if (at - header_begun_ > bounds.header_deadline) {
      refuse_and_close(408, "the header did not arrive in time");
    }
  } else if (at - quiet_since_ > bounds.idle_timeout) {
    peer_.close_after_flush();
  }
}

void http_session::on_stop() {
  if (!answering_ || done_) return;
  keep_ = false;
  peer_.close_now();  // its events can no longer come
}

std::string http_session::connection_header() {
  if (!keep_ || !core_.accepting) last_ = true;
  if (last_) return "Connection: close\r\n";
  return http10_ ? "Connection: keep-alive\r\n" : "";
}

void http_session::respond(int status,
                           std::string_view type,
                           std::string_view body,
                           std::string_view extra) {
  std::string out = "HTTP/1.1 " + std::to_string(status) + ' ' + reason_of(status) + "\r\n";
  out += "Content-Type: ";
  out += type;
  out += "\r\nContent-Length: " + std::to_string(body.size()) + "\r\n";
  out += extra;
  out += connection_header();
  out += "\r\n";
  if (!head_only_) out += body;
  done_ = true;
  quiet_since_ = now();
  peer_.write(out);
  if (last_) peer_.close_after_flush();
}

void http_session::respond_error(const error& why,
                                 int status,
                                 const char* code,
                                 std::string_view extra) {
  std::string body = "{\"error\":";
  write_error(body, why, code);
  body += '}';
  if (status == 0) status = wire_form(why.code).status;
  std::string fields(extra);
  // A server that drains will not take the retry; another one may.
  if (status == 429 && !core_.engine.ready()) status = 503;
  if (status == 429 || status == 503) fields += "Retry-After: 1\r\n";
  respond(status, "application/json", body, fields);
}

void http_session::refuse_and_close(int status, std::string_view message) {
  core_.metrics().http_errors.add();
  keep_ = false;
  admitted_ = false;
  const auto code = status == 408 ? errc::deadline_exceeded : errc::invalid_argument;
  respond_error({code, std::string(message)}, status);
}

void http_session::begin_stream() {
  std::string out =
      "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n";
  if (http10_) keep_ = false;  // without chunks the end of the connection ends the answer
  out += connection_header();
  out += http10_ ? "\r\n" : "Transfer-Encoding: chunked\r\n\r\n";
  peer_.write(out);
}

void http_session::stream(std::string_view bytes) {
  if (http10_) return peer_.write(bytes);
  char size[24];
  const int length = std::snprintf(size, sizeof size, "%zx\r\n", bytes.size());
  std::string out(size, static_cast<std::size_t>(length));
  out += bytes;
  out += "\r\n";
  peer_.write(out);
}

void http_session::end_stream() {
  if (!http10_) peer_.write("0\r\n\r\n");
  done_ = true;
  quiet_since_ = now();
  if (!keep_ || !core_.accepting) last_ = true;
  peer_.touch();
  if (last_) peer_.close_after_flush();
}

bool http_session::check_peer() {
  const auto& asked = codec_.request();
  const auto& bounds = core_.bounds;
  const auto* host = asked.find("host");
  if (host != nullptr && (core_.http_loopback || !bounds.allowed_hosts.empty())) {
    const bool own = core_.http_loopback && is_own_host(*host, core_.http_authority);
    if (!own && !listed(bounds.allowed_hosts, *host)) {
      respond_error(invalid("Host", "this Host is not allowed; net.allowed_hosts lists others"),
                    403);
      return false;
    }
  }
  const auto* origin = asked.find("origin");
  if (origin != nullptr) {
    const bool plain = origin->starts_with("http://");
    const bool own = core_.http_loopback && plain &&
                     is_own_host(std::string_view(*origin).substr(7), core_.http_authority);
    if ((!own && !listed(bounds.allowed_origins, *origin)) || asked.count("origin") != 1) {
      respond_error(
          invalid("Origin", "this Origin is not allowed; net.allowed_origins lists others"), 403);
      return false;
    }
  }
  return true;
}

bool http_session::admit() {
  const auto& asked = codec_.request();
  // A refusal before the body is read ends the connection: what follows could be taken for a
  // request.
  const bool kept = keep_;
  if (asked.chunked || asked.content_length != 0) keep_ = false;
  if (!check_peer()) return last_ = last_ || !keep_, false;
  const auto* row = find_route(asked.path);
  if (row == nullptr) {
    respond_error({errc::not_found, "nothing is served at this path"}, 404);
    return false;
  }
  const std::string takes = row->method;
  if (asked.method != takes && !(takes == "GET" && head_only_)) {
    const std::string allowed = takes == "GET" ? "GET, HEAD" : takes;
    respond_error(invalid("", "this path takes " + takes), 405, "method_not_allowed",
                  "Allow: " + allowed + "\r\n");
    return false;
  }
  if (const auto* expect = asked.find("expect");
      expect != nullptr && !same_text(*expect, "100-continue")) {
    respond_error(invalid("Expect", "this expectation cannot be met"), 417);
    return false;
  }
  const auto* type = asked.find("content-type");
  const auto* encoding = asked.find("content-encoding");
  const bool encoded = encoding != nullptr && !same_text(*encoding, "identity");
  if (asked.method == "POST" && (encoded || (type != nullptr && !json_type(*type)))) {
    respond_error(unsupported("Content-Type", "the body must be plain application/json"), 415);
    return false;
  }
  keep_ = kept;
  return true;
}

void http_session::handle() {
  const auto& asked = codec_.request();
  if (asked.path == "/v1/stream") return upgrade();
  if (asked.method == "POST") return post();
  if (asked.path == "/healthz" || asked.path == "/readyz") {
    const bool good =
        asked.path == "/healthz" ? core_.engine.healthy() : core_.engine.ready() && core_.accepting;
    const char* body = good ? "{\"status\":\"ok\"}" : "{\"status\":\"unavailable\"}";
    return respond(good ? 200 : 503, "application/json", body, good ? "" : "Retry-After: 1\r\n");
  }
  if (asked.path == "/metrics") return show_metrics();
  show_models();
}

void http_session::show_models() {
  const auto& model = core_.engine.model();
  const auto& path = codec_.request().path;
  std::string one = "{\"id\":";
  write_json_string(one, model.name);
  one += ",\"object\":\"model\",\"created\":";
  write_json_number(one, model.created);
  one += ",\"owned_by\":\"foretoken\",\"context_length\":";
  write_json_number(one, model.context);
  one += '}';
  if (path == "/v1/models") {
    return respond(200, "application/json", "{\"object\":\"list\",\"data\":[" + one + "]}");
  }
  const auto name = std::string_view(path).substr(std::string_view("/v1/models/").size());
  if (percent_decoded(name) == model.name) {
    return respond(200, "application/json", one);
  }
  respond_error({errc::not_found, "no such model is served here", "model"});
}

void http_session::show_metrics() {
  const auto at = now();
  if (core_.metrics_page.empty() || at - core_.metrics_page_made > std::chrono::milliseconds(100)) {
    core_.metrics_page = core_.engine.metrics_page();
    core_.metrics_page_made = at;
  }
  respond(200, "text/plain; version=0.0.4; charset=utf-8", core_.metrics_page);
}

void http_session::post() {
  auto& asked = codec_.request();
  auto body = parse_json(asked.body, {core_.bounds.json_depth_max, core_.bounds.json_values_max});
  if (!body) {
    count_refusal(core_.metrics(), body.error());
    return respond_error(body.error());
  }
  if (asked.path == "/detokenize") return answer_detokenize(*this, *body);
  if (asked.path == "/tokenize") {
    answer_ = answer_tokenize(*this, *body);
  } else {
    answer_ = answer_generate(*this, std::move(*body), asked.path == "/v1/chat/completions");
  }
}

void http_session::upgrade() {
  const auto& asked = codec_.request();
  const auto* version = asked.find("sec-websocket-version");
  const bool wanted = asked.method == "GET" && asked.minor == 1 &&
                      asked.list_has("upgrade", "websocket") &&
                      asked.list_has("connection", "upgrade");
  if (!wanted || version == nullptr || *version != "13") {
    return respond_error(invalid("Sec-WebSocket-Version", "this path speaks WebSocket version 13"),
                         426, "upgrade_required",
                         "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n");
  }
  const auto* key = asked.find("sec-websocket-key");
  const auto accept = key == nullptr || asked.count("sec-websocket-key") != 1
                          ? std::string()
                          : websocket_accept(*key);
  if (accept.empty()) {
    return respond_error(invalid("Sec-WebSocket-Key", "the key must be 16 bytes in base64"), 400);
  }
  last_ = true;  // nothing after it is HTTP
  peer_.write(
      "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
      "Sec-WebSocket-Accept: " +
      accept + "\r\n\r\n");
  peer_.replace_protocol(std::make_unique<websocket>(core_, peer_), std::move(in_));
}

}  // namespace foretoken::net
