// SPDX-License-Identifier: Apache-2.0
#include "cpu/packed_weights.hpp"

#include <system_error>

#include "base/log.hpp"
#include "cpu/dispatch.hpp"
#include "cpu/packed_store.hpp"

namespace foretoken::cpu {
namespace {

// Below this, packing again costs less than what the files and the first start's hash do;
// docs/decisions/0004-packed-weights-on-disk.md has the figures.
constexpr std::uint64_t automatic_bytes_min = std::uint64_t{64} << 20;

bool wanted(const packed_options& chosen, std::uint64_t file_bytes) {
  return chosen.use == packed_cache::on || file_bytes >= automatic_bytes_min;
}

}  // namespace

status read_packed(const model::model_file& outline,
                   const weights& laid_out,
                   const packed_options& chosen,
                   const blocks& blanks,
                   thread_pool& threads) {
  const auto store = packed_store::open(chosen);
  const auto digest = store && outline.source ? store->recall(*outline.source) : std::nullopt;
  if (!digest) return error{errc::not_found, "nothing is known of this file", "packed weights"};
  const auto key = packed_key(*digest, laid_out.path, laid_out.precision, laid_out.floats);
  FORETOKEN_TRY(read_packed_file(store->file_of(key), key, blanks, threads));
  store->touch(key);
  return {};
}

std::optional<source_digest> digest_to_keep(const model::model_file& file,
                                            const packed_options& chosen) {
  if (file.outline || !file.source || !wanted(chosen, file.file_bytes)) return std::nullopt;
  if (!packed_store::open(chosen)) return std::nullopt;
  sha256 hash;
  hash.add(file.source->content);
  const auto content = hash.finish();
  if (content) return source_digest{*content, file.fingerprint};
  log::warn("model", "packed weights are not kept: no SHA-256 here");
  return std::nullopt;
}

void keep_packed(const model::source_file& source,
                 const source_digest& digest,
                 const weights& made,
                 const packed_options& chosen,
                 thread_pool& threads) {
  const auto store = packed_store::open(chosen);
  if (!store) return;
  const auto key = packed_key(digest, made.path, made.precision, made.floats);
  const const_blocks bytes = packed_blocks(made);
  if (!store->make_room(packed_file_bytes(bytes))) {
    return log::info("model", "packed weights are not kept: larger than the disk budget");
  }
  if (auto written = write_packed_file(store->file_of(key), key, bytes, threads); !written) {
    return log::warn("model", "packed weights are not kept: {}", written.error().message);
  }
  store->remember(source, digest);
}

std::shared_ptr<const model::model_file> recall_model(const std::filesystem::path& path,
                                                      const options& chosen) {
  const auto isa_path = choose_isa(chosen.path);
  const auto store = packed_store::open(chosen.packed);
  if (!isa_path || !store) return nullptr;
  auto outline = model::model_file::load_outline(path);
  if (!outline || !(*outline)->source || !wanted(chosen.packed, (*outline)->file_bytes)) {
    return nullptr;
  }
  const auto digest = store->recall(*(*outline)->source);
  if (!digest) return nullptr;
  std::error_code failed;
  const auto file = store->file_of(packed_key(*digest, *isa_path, chosen.precision, chosen.floats));
  if (!std::filesystem::exists(file, failed)) return nullptr;
  (*outline)->fingerprint = digest->fingerprint;
  return *outline;
}

}  // namespace foretoken::cpu
