// SPDX-License-Identifier: Apache-2.0
#pragma once
// A model's weights to and from the folder of packed weights; included by cpu/ only.

#include <optional>

#include "cpu/packed_file.hpp"
#include "cpu/packed_store.hpp"
#include "cpu/weights.hpp"

namespace foretoken::cpu {

// Fills the blanks of weights that were laid out from an outline. Errors: not_found, corrupt.
status read_packed(const model::model_file& outline,
                   const weights& laid_out,
                   const packed_options& chosen,
                   const blocks& blanks,
                   thread_pool& threads);

// What the file holds, when what is packed from it is to be kept: wanted, worth it, and there is a
// folder.
std::optional<source_digest> digest_to_keep(const model::model_file& file,
                                            const packed_options& chosen);
// Keeps what was packed. Failure only costs time at the next start: it is logged.
void keep_packed(const model::source_file& source,
                 const source_digest& digest,
                 const weights& made,
                 const packed_options& chosen,
                 thread_pool& threads);

}  // namespace foretoken::cpu
