// SPDX-License-Identifier: Apache-2.0
#pragma once
// A model's weights to and from the folder of packed weights; included by cpu/ only.

#include "cpu/packed_file.hpp"
#include "cpu/weights.hpp"

namespace foretoken::cpu {

// Fills the blanks of weights that were laid out from an outline. Errors: not_found, corrupt.
status read_packed(const model::model_file& outline,
                   const weights& laid_out,
                   const packed_options& chosen,
                   const blocks& blanks,
                   thread_pool& threads);

// Keeps what was packed from a file, when that is wanted and worth it. Failure only costs time at
// the next start: it is logged.
void keep_packed(const model::model_file& file,
                 const weights& made,
                 const packed_options& chosen,
                 thread_pool& threads);

}  // namespace foretoken::cpu
