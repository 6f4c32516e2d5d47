// XXH64, the checksum of what travels (docs/wire_format.md, "In transport"). Finds accidents: a changed text has the
// same sum once in 2^64; no protection against somebody who means harm.
#pragma once

#include "common/bytes.h"

namespace tsq {

/// The XXH64 of `bytes`; the same on every machine. O(bytes), some 10 GB/s: four sums of multiplications side by side.
uint64_t checksum(Bytes bytes, uint64_t seed);

}  // namespace tsq
