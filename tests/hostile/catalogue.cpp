// SPDX-License-Identifier: Apache-2.0
#include "tests/hostile/catalogue.hpp"

namespace foretoken::test {
namespace {

using entries = std::vector<catalogue_entry>;

// From disk, by the loader and by the program. The rows are in tests/model/spoiled_gguf.cpp.
const proof gguf_files{"hostile",
                       "files: every spoiled GGUF file is refused by the loader and the program"};
const proof gguf_memory{"model", "gguf: every spoiled file is refused by name"};
// tests/model/spoiled_hugging_face.cpp
const proof safetensors_files{
    "hostile", "files: every spoiled safetensors file is refused by the loader and the program"};
const proof tokenizer_files{
    "hostile", "files: every spoiled tokenizer.json is refused by the loader and the program"};
const proof shard_files{
    "hostile", "files: a shard index cannot lead out of its folder, nor to what is missing"};
const proof pickle_files{"hostile", "files: pickles are refused, not read"};
// tests/config/spoiled_toml.cpp
const proof toml_files{"hostile", "files: every spoiled configuration is refused by the program"};

entries gguf() {
  return {
      {1, "empty file", "corrupt, magic", {gguf_files, gguf_memory}},
      {2, "magic FUGG", "corrupt, magic", {gguf_files}},
      {3, "version 0, 1, 4", "unsupported, version", {gguf_files}},
      {4, "byte-swapped version", "unsupported, version", {gguf_files}},
      {5, "tensor count 2^64-1", "corrupt, tensor_count", {gguf_files}},
      {6, "key count 2^63", "corrupt, metadata_kv_count", {gguf_files}},
      {7, "key length 2^64-1", "corrupt, the key's place", {gguf_files}},
      {8, "empty key", "corrupt, the key's place", {gguf_files}},
      {9, "key twice", "corrupt, the key", {gguf_files}},
      {10, "value type 13, 255", "corrupt, the key", {gguf_files}},
      {11, "array of arrays", "corrupt, the key", {gguf_files}},
      {12, "array length 2^62", "corrupt, the key", {gguf_files}},
      {13, "text longer than the file", "corrupt, the key", {gguf_files}},
      {14, "alignment 0, 13, 2^31, signed", "corrupt, general.alignment", {gguf_files}},
      {15, "0, 5, 2^32-1 dimensions", "corrupt, the tensor", {gguf_files}},
      {16, "dimension 0 or negative", "corrupt, the tensor", {gguf_files}},
      {17, "product of dimensions wraps", "corrupt, the tensor", {gguf_files}},
      {18, "rows that are not whole blocks", "corrupt, the tensor", {gguf_files}},
      {19,
       "tensor type 4, 5, 999; one that we lack",
       "corrupt or unsupported, the tensor",
       {gguf_files}},
      {20, "offset unaligned, beyond the end, overlapping", "corrupt, the tensor", {gguf_files}},
      {21, "tensor name twice, of 4 kB", "corrupt, the tensor", {gguf_files}},
      {22,
       "cut at every byte of the header and 200 others",
       "refused",
       {{"model", "gguf: a file cut anywhere is refused"}}},
      {23, "fewer tokens than rows; bos, eos, pad outside or -1", "corrupt, the key", {gguf_files}},
      {24, "scores stored as bytes", "corrupt, the key", {gguf_files}},
      {25,
       "byte tokens <0x-1>, <0xZZ>",
       "corrupt, the key",
       {gguf_files, {"tokenizer", "byte_piece: only the exact form"}}},
      {26, "merges of unknown tokens", "corrupt, the key", {gguf_files, tokenizer_files}},
      {27,
       "2^31 layers, no heads, uneven KV heads, context 0, rope NaN, epsilon -1",
       "corrupt, the key",
       {gguf_files}},
      {28,
       "weights all NaN or infinite",
       "loads; requests end in a device error that names the model; not ready after 3",
       {{"hostile",
         "weights: a model of NaN or infinities answers with errors and is not ready after three"},
        {"actors",
         "request_book: three requests in a row without finite logits are counted, a token starts "
         "over"}}},
  };
}

entries folders() {
  return {
      {29, "shorter than 8 bytes", "corrupt, the file", {safetensors_files}},
      {30,
       "header length 0, beyond the file, 2^63, over 100 MB",
       "corrupt, the file",
       {safetensors_files}},
      {31, "not {, invalid UTF-8, bytes after the JSON", "corrupt, the file", {safetensors_files}},
      {32, "JSON of depth 10,000", "corrupt, the file", {safetensors_files}},
      {33, "tensor twice", "corrupt, the file", {safetensors_files}},
      {34,
       "begin after end, hole, overlap, beyond the end, empty tensor inside another",
       "corrupt, the tensor",
       {safetensors_files}},
      {35, "shape that wraps to 4", "corrupt, the tensor", {safetensors_files}},
      {36,
       "dtype unknown; dtype, shape and bytes disagree",
       "corrupt, the tensor",
       {safetensors_files}},
      {37, "metadata that is not texts", "corrupt, the file", {safetensors_files}},
      {38,
       "shards ../../etc/passwd, absolute, missing; pickles",
       "corrupt, not_found or unsupported, the file",
       {shard_files, pickle_files, {"model", "safetensors: shards must be plain file names"}}},
      {39, "vocabulary with an id twice, gaps, id 2^31", "corrupt, the key", {tokenizer_files}},
      {40,
       "200,000 equal merges",
       "loads, not in quadratic time",
       {{"hostile",
         "merges: 200,000 equal ones load from either format, in time that does not square"},
        {"tokenizer", "make: 200,000 equal merges load"}}},
      {41,
       "split pattern that backtracks",
       "unsupported, the key: only known patterns",
       {gguf_files, tokenizer_files}},
      {42,
       "empty added token",
       "corrupt, the key",
       {gguf_files,
        tokenizer_files,
        {"tokenizer", "make: a bad vocabulary is an error that names the member"}}},
      {43,
       "chat template of the file's own",
       "never executed: recognised, or unsupported, model.chat_template",
       {{"tokenizer", "chat: templates are recognised by their text"},
        {"tokenizer",
         "chat: an unknown template is an error that names the config key and its values"}}},
  };
}

entries configuration() {
  return {
      {44, "not UTF-8, byte order mark, NUL", "refused with the line", {toml_files}},
      {45, "unknown key", "refused with the line and the nearest name", {toml_files}},
      {46, "key twice", "refused with the line", {toml_files}},
      {47,
       "numbers out of range or as text; port 70000",
       "refused with the key and its range",
       {toml_files,
        {"net", "server: addresses that cannot be bound are named"},
        {"system", "FlagsTest.test_bad_flags_exit_2_and_name_the_flag"}}},
      {48, "nan, inf, 1e400", "refused with the line", {toml_files}},
      {49, "10 MB, depth 1000", "refused at once", {toml_files}},
      {50, "key file that everybody may read", "", {}, "there are no keys yet"},
      {51,
       "reload that changes an immutable key",
       "",
       {},
       "the configuration is read once, at the start"},
  };
}

entries http() {
  const proof codec{"net", "http_codec: malformed messages are refused, however they are split"};
  const proof refusals{"net", "server: refusals carry their status"};
  return {
      {52,
       "folded headers, space before the colon, bare LF, no or two Hosts, HTTP/9.9, chunked in 1.0 "
       "or twice, chunk without CRLF, a request after Connection: close",
       "one 400 or 505, then close",
       {codec,
        {"net", "server: a framing error ends the connection after one 400"},
        {"hostile", "http: what follows Connection: close is not answered"}}},
      {53,
       "request line of 8 KiB+1, 101 headers, a byte a second",
       "414, 431, 408",
       {codec,
        {"net", "server: slow headers get 408"},
        {"hostile", "http: a header that drips in gets 408"}}},
      {54,
       "body of 1 MiB+1, shorter than its length, in 500,000 chunks",
       "413; no request; 400",
       {codec,
        {"net", "http_codec: chunks beyond the bound are refused"},
        {"hostile", "http: a body that ends early is no request"},
        {"hostile", "http: half a million chunks end at the bound"}}},
      {55,
       "Expect: 100-continue with a request that is refused",
       "refused before the body is sent",
       {refusals, {"hostile", "http: a refused request is not told to continue"}},
       "authorisation: there are no keys yet"},
      {56, "other content type, compressed body", "415", {refusals}},
      {57,
       "TLS hello, PRI preface, one random byte, silence",
       "400 or 505 or 408, then close",
       {codec,
        {"hostile", "http: bytes of other protocols get one refusal and the close"},
        {"hostile", "http: a connection that says nothing is closed"}},
       "there is no TLS port"},
      {58,
       "/../../etc/passwd, %2e%2e%2f, //, backslash, %00",
       "404, no file is touched",
       {refusals, {"hostile", "http: paths outside the table are 404"}}},
  };
}

entries websocket() {
  const proof codes{"net", "websocket: broken frames close with their code"};
  return {
      {59,
       "unmasked, reserved bits and opcodes, bad continuation, invalid UTF-8, close codes, control "
       "frames and lengths; length 2^63-1",
       "1002, 1007 or 1009 at once",
       {codes, {"hostile", "websocket: framing faults close with their code at once"}}},
      {60,
       "no key, short key, version 12",
       "400, 426",
       {{"net", "websocket: the upgrade is checked"}}},
      {61, "foreign Origin", "403", {{"net", "websocket: the upgrade is checked"}}},
      {62,
       "flood of pings, endless fragments, a message never finished",
       "1008",
       {codes,
        {"hostile", "websocket: pings of a peer that never reads end at the bound"},
        {"hostile", "websocket: a message that is not finished in time is closed"}}},
      {63,
       "data after close, reset in a frame, a client that never reads",
       "ignored; cancelled; cut",
       {{"hostile", "websocket: what follows a close is not read"},
        {"hostile", "websocket: a reset in mid-frame cancels"},
        {"hostile", "websocket: a client that never reads is cut"}}},
  };
}

entries lines() {
  const proof malformed{
      "net", "tcp: a malformed line gets an error with a null id and the connection stays"};
  return {
      {64,
       "line of 1 MiB+1",
       "error with null id, then close",
       {{"net", "tcp: bounds on lines and streams"}}},
      {65,
       "CRLF, lone CR, blank lines, byte order mark",
       "ignored where blank, else an error",
       {malformed,
        {"net", "tcp: streams end with done, ids come back as given"},
        {"hostile", "tcp: blank lines of every kind are ignored"}}},
      {66,
       "invalid UTF-8, lone surrogate, NUL, keys twice, trailing comma, NaN, depth 33, two objects",
       "error with null id",
       {malformed, {"net", "json: text that breaks the format is refused"}}},
      {67,
       "id in use",
       "id_in_use",
       {{"net", "tcp: an id in use is refused, cancel ends it, an unknown id is ignored"}}},
  };
}

entries parameters() {
  const proof named{"net", "request_json: a bad parameter is refused by name"};
  const proof bounds{"hostile", "requests: what is beyond a bound is refused by name"};
  return {
      {68,
       "empty prompt, NUL inside, 1 MB prompt",
       "400 on prompt; legal; 400 on prompt",
       {bounds,
        {"net", "request_json: defaults, seeds and prompts"},
        {"hostile", "requests: a megabyte of prompt is refused by name"}}},
      {69,
       "control-token text in a user's words",
       "plain text",
       {{"tokenizer", "chat: what people write never becomes a control token"},
        {"tokenizer",
         "byte_level: user-defined tokens always match, the longest first; control only if asked"}},
       "permission by key: there are no keys yet"},
      {70,
       "token ids -1, of the vocabulary's size, 2^31; 10 million",
       "400 on prompt",
       {bounds,
        {"net", "request_json: defaults, seeds and prompts"},
        {"hostile", "http: requests beyond the bounds of JSON name the parameter"}}},
      {71,
       "numbers outside their range, NaN, texts for numbers, too many stops and biases",
       "400 on the parameter",
       {named, bounds, {"hostile", "http: requests beyond the bounds of JSON name the parameter"}},
       "deadline_ms: an unknown parameter here"},
      {72,
       "cache_salt over 64 bytes or not printable; malformed traceparent",
       "400 on cache_salt; ignored",
       {named, bounds, {"hostile", "http: a malformed traceparent is ignored"}}},
  };
}

}  // namespace

const std::vector<catalogue_entry>& catalogue() {
  static const entries all = [] {
    entries made;
    for (auto part :
         {gguf(), folders(), configuration(), http(), websocket(), lines(), parameters()}) {
      made.insert(made.end(), part.begin(), part.end());
    }
    return made;
  }();
  return all;
}

}  // namespace foretoken::test
