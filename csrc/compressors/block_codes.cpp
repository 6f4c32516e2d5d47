#include "compressors/block_codes.h"

#include <cmath>

#include "common/error.h"
#include "compressors/pointers.h"
#include "compressors/script.h"
#include "compressors/sweep.h"

namespace tsq {

std::optional<double> BlockCodes::script_L(const Smoothness& L, size_t n, uint32_t) const {
  L.check_numel(n);
  if (!class_of(n).omega) return std::nullopt;
  const double s = params_.bits == 1 ? 0.5 : static_cast<double>((1 << (params_.bits - 1)) - 1);
  const double larger = params_.bf16_scales ? 1 + 0x1p-7 : 1.0;  // steps that are rounded up
  return largest_of_blocks(L, n, params_.block, [&](const MetricBlock& block) {
    const double omega = *class_of(static_cast<size_t>(block.count)).omega;
    return std::min(omega * block.largest, larger * larger * block.trace / (4 * s * s));
  });
}

// How far, in levels, the largest magnitude may lie below s: it is s / (1 + 1/128) of a scale at least.
static double slack(int s, bool bf16_scales) { return bf16_scales ? s / 129.0 : 0.0; }

double grid_omega(int s, size_t n, bool bf16_scales) {
  const auto count = static_cast<double>(n);
  if (s == 0) return count * (bf16_scales ? (1.0 + 0x1p-7) * (1.0 + 0x1p-7) : 1.0) - 1.0;
  const double d = slack(s, bf16_scales), v = d < 0.5 ? d * (1.0 - d) : 0.25, square = (s - d) * (s - d);
  return 0.5 * ((v - square) + std::sqrt((square + v) * (square + v) + square * (count - 1.0))) / square;
}

double grid_alpha(int s, size_t n, bool bf16_scales) {
  const double d = slack(s, bf16_scales), square = (s - d) * (s - d), lost = std::min(d, 0.5) * std::min(d, 0.5);
  return (square - lost) / (square + 0.25 * (static_cast<double>(n) - 1.0));
}

std::string BlockCodes::spec_of(const char* name, std::string arguments, const std::string& more) const {
  if (params_.block != 256) arguments += concat(", block=", params_.block);
  arguments += more;
  if (params_.bf16_scales) arguments += ", scale_dtype='bf16'";
  return concat(name, "(", arguments.starts_with(", ") ? arguments.substr(2) : arguments, ")");
}

void BlockCodes::check_block(const char* name, uint32_t block) {
  if (block < 32 || block > 4096 || (block & (block - 1)))
    throw ArgumentError(concat(name, ": block: expected a power of two from 32 to 4096, got ", block));
}

size_t BlockCodes::max_bytes(size_t n, DType) const { return kernels::quantizer_bytes(n, params_); }

double BlockCodes::expected_bits(size_t n, DType dtype) const { return 8.0 * static_cast<double>(max_bytes(n, dtype)); }

Compressor::Encoded BlockCodes::run(kernels::Form form, ConstView x, void* state, const EncodeKey& key,
                                    MutableBytes out) const {
  const bool finite = sweep_all(x.numel, [&](size_t begin, size_t count) {
    return kernels::quantize(params_, form, x.slice(begin, count), state_at(state, x.dtype, begin), key.philox,
                             key.offset + begin, out.data() + bytes_before(begin));
  });
  return {max_bytes(x.numel, x.dtype), finite};
}

void BlockCodes::validate(Bytes in, uint64_t n, DType dtype) const {
  // The first test keeps the length formula of a hostile n from overflowing: an element takes at least one bit.
  if (n > 8 * uint64_t{in.size()} || max_bytes(n, dtype) != in.size())
    throw_wire("bytes", concat("those of ", n, " elements of ", spec()), in.size());
  const bool valid = sweep_all(n, [&](size_t begin, size_t count) {
    return kernels::valid_payload(params_, in.data() + bytes_before(begin), count);
  });
  if (!valid)
    throw WireError(
        concat(kBadMessage, ": payload of ", spec(), ": expected finite scales and legal codes, found others"));
}

void BlockCodes::decode_add(Bytes in, DType, double scale, View acc) const {
  sweep(acc.numel, [&](size_t begin, size_t count) {
    kernels::dequantize_add(params_, in.data() + bytes_before(begin), count, scale, acc.slice(begin, count));
  });
}

void BlockCodes::decode_mean(std::span<const Bytes> in, View out) const {
  sweep(out.numel, [&](size_t begin, size_t count) {
    const Pointers pointers(in, bytes_before(begin));
    kernels::dequantize_mean(params_, pointers.data(), in.size(), out.slice(begin, count));
  });
}

void BlockCodes::decode_update(std::span<const Bytes> in, double scale, View acc, View out) const {
  sweep_update(in, acc, out, [&](const Bytes& payload, size_t begin, View sums) {
    kernels::dequantize_add(params_, payload.data() + bytes_before(begin), sums.numel, scale, sums);
  });
}

}  // namespace tsq
