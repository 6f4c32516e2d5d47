// Copies of vectors that are too long to be read again from a cache. No checks, no allocation, no throw; thread-safe.
#pragma once

#include <cstddef>

namespace tsq::kernels {

/// Vectors from this many bytes on: two to four times a core's own cache.
constexpr size_t kBeyondCache = size_t{4} << 20;

/// memcpy that writes past the cache: memory is not read before it is written, and what is in the cache stays there.
/// Good for one vector of kBeyondCache, or for parts of it.
void copy_past_cache(void* to, const void* from, size_t bytes);

}  // namespace tsq::kernels
