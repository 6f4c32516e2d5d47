// The block quantizer's kernels: sweeps over memory, no state, no checks. Definition: docs/wire_format.md, codec
// 1; codecs 2 and 3 have its payload and run here too.
//
// Every function exists twice: in tsq::kernels (SIMD, chosen at run time for the CPU) and in tsq::kernels::scalar, the
// oracle, which is plain loops and also serves tails and odd types. Both give the same bytes. Pointers to elements need
// the alignment of their type only, pointers to bytes none. Nothing here allocates or throws. Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/dtype.h"
#include "common/philox.h"

namespace tsq::kernels {

enum class Rounding : uint8_t {
  kStochastic,  ///< levels "unbiased", dithered
  kNearest,     ///< levels "unbiased", no dither
  kFit,         ///< levels "fit"
  kSign,        ///< codec 2: the sign, with the mean magnitude as scale; bits = 1
};

/// What the quantizer compresses and what it does to the state vector h or e (of state_dtype(x.dtype)).
enum class Form : uint8_t {
  kPlain,     ///< m = C(x)
  kResidual,  ///< m = C(e + x), e = (e + x) - m       EF14
  kShifted,   ///< m = C(x - h), h = h + m             EF21, DIANA, 3PC
};

struct QuantizerParams {
  int bits = 4;          ///< 1..8
  uint32_t block = 256;  ///< power of two, 32..4096
  Rounding rounding = Rounding::kFit;
  float shrink = 1.0f;       ///< multiplies the scales of kStochastic and kNearest
  bool bf16_scales = false;  ///< scales are bfloat16 numbers and travel as 2 bytes

  constexpr size_t group() const { return block > 256 ? block : 256; }
  constexpr size_t scale_bytes() const { return bf16_scales ? 2 : 4; }
};

/// Exact payload length of n elements, in bytes.
constexpr size_t quantizer_bytes(size_t n, int bits, uint32_t block, size_t scale_bytes = 4) {
  const size_t tail_rows = (n % 256 + 31) / 32;
  return scale_bytes * ((n + block - 1) / block) + 32 * (size_t(bits) * (n / 256) + (size_t(bits) * tail_rows + 7) / 8);
}
constexpr size_t quantizer_bytes(size_t n, const QuantizerParams& params) {
  return quantizer_bytes(n, params.bits, params.block, params.scale_bytes());
}

/// Encodes x into `out` (quantizer_bytes(x.numel) bytes). `state` has x.numel elements of state_dtype(x.dtype); null
/// for kPlain. `offset` is the place of x[0] in its parameter, a multiple of params.group(). Returns false if a block's
/// compressed quantity (x, e + x or x - h) was not finite in fp32: such a block is written as an empty one and its
/// state is left as it was; all other blocks are encoded normally. Reads x and state once, writes state and out once.
bool quantize(const QuantizerParams& params, Form form, ConstView x, void* state, PhiloxKey key, uint64_t offset,
              uint8_t* out);

/// acc[i] += scale * value[i]; acc is float32 or float64 (values are fp32, then converted; scale is applied in acc's
/// type, and scale = 1 adds the value itself).
void dequantize_add(const QuantizerParams& params, const uint8_t* in, size_t n, double scale, View acc);

/// out[i] = (((0 + value_0[i]) + value_1[i]) + ...) / count, summed in state_dtype(out.dtype) in the order given,
/// divided by `count` once (not at all if count = 1), rounded to out.dtype. One sweep over `out`.
void dequantize_mean(const QuantizerParams& params, const uint8_t* const* in, size_t count, View out);

/// True if every scale and every code of the payload is legal (docs/wire_format.md). Only bits, block, the width of
/// scales and whether rounding is kFit are looked at. `in` has quantizer_bytes(n) bytes.
bool valid_payload(const QuantizerParams& params, const uint8_t* in, size_t n);

/// True if no element is Inf or NaN (for float64: beyond float32's range counts as Inf). Stops early at the first one.
bool all_finite(ConstView x);

/// True if every magnitude is below 2^96: finite, and so far from the largest float that sums of a few do not overflow.
bool all_ordinary(ConstView x);

/// True if every element is +0 or -0. Stops early at the first other one.
bool all_zero(ConstView x);

/// Names of the SIMD targets compiled in and usable on this CPU, best first, e.g. {"AVX3", "AVX2", "SSE4"}; static
/// storage.
const char* const* simd_targets(size_t* count);

/// Restricts dispatch to one of simd_targets() (for tests and benchmarks), or lifts the restriction with nullptr.
/// Returns false if the name is unknown. Not thread-safe against running kernels.
bool force_simd_target(const char* name);

namespace scalar {
bool quantize(const QuantizerParams& params, Form form, ConstView x, void* state, PhiloxKey key, uint64_t offset,
              uint8_t* out);
void dequantize_add(const QuantizerParams& params, const uint8_t* in, size_t n, double scale, View acc);
void dequantize_mean(const QuantizerParams& params, const uint8_t* const* in, size_t count, View out);
bool valid_payload(const QuantizerParams& params, const uint8_t* in, size_t n);
bool all_finite(ConstView x);
bool all_ordinary(ConstView x);
bool all_zero(ConstView x);
}  // namespace scalar

}  // namespace tsq::kernels
