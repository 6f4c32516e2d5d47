// float32 to the two 8-bit formats and back. The oracle is common/fp8.h; here the same for whole vectors, chosen at run
// time for the CPU. Nothing allocates or throws.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tsq::kernels {

enum class Float8Format : uint8_t { kE4M3, kE5M2 };

/// out[i] = the code of z[i] * factor, for m elements.
void encode_float8(Float8Format format, const float* z, size_t m, float factor, uint8_t* out);

/// values[i] = what code in[i] stands for, times scale.
void decode_float8(Float8Format format, const uint8_t* in, size_t m, float scale, float* values);

}  // namespace tsq::kernels
