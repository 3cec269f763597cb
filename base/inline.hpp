// SPDX-License-Identifier: Apache-2.0
#pragma once

// A function that becomes part of its caller, and is compiled for the caller's instruction set.
#define FORETOKEN_INLINE inline __attribute__((always_inline))
