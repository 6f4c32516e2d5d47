// The oracle: docs/wire_format.md, codecs 1 to 3, in plain loops. Readable first; the SIMD kernels are tested against
// it.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "kernels/cpu/block.h"
#include "kernels/quantizer.h"
#include "kernels/scalar.h"

namespace tsq::kernels::scalar {
namespace {

float round_half_even(float v) { return (v + kRounder) - kRounder; }

// Sums term(j) for j < count in the document's order: 32 lanes, then a tree.
template <class Term>
float lane_sum(size_t count, Term term) {
  float lanes[kLanes] = {};
  for (size_t j = 0; j < count; ++j) lanes[j % kLanes] += term(j);
  for (size_t width = kLanes / 2; width > 0; width /= 2) {
    for (size_t lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  }
  return lanes[0];
}

// u_i of the parameter's element `index`: 16 bits of Philox, centred.
float dither(PhiloxKey key, uint64_t index) {
  return std::bit_cast<float>(0x3F800040u | dither_bits(key, index) << 7) - 1.5f;
}

int clip(float v, int low, int high) { return static_cast<int>(std::min(std::max(v, float(low)), float(high))); }

// Codes of m elements under "unbiased"; returns the scale's bit pattern.
uint32_t encode_unbiased(const QuantizerParams& params, const float* x, size_t m, uint32_t magnitude, PhiloxKey key,
                         uint64_t offset, uint8_t* codes) {
  const Normalizer norm = normalizer(params, magnitude);
  const int s = centre(params.bits);
  for (size_t i = 0; i < m; ++i) {
    const float u = params.rounding == Rounding::kStochastic ? dither(key, offset + i) : 0.0f;
    const float v = x[i] * norm.inverse + u;
    codes[i] = static_cast<uint8_t>(params.bits == 1 ? v >= 0.0f : clip(round_half_even(v), -s, s) + s);
  }
  return std::bit_cast<uint32_t>(unbiased_scale(params, norm.unit));
}

// Codes of m elements under "fit"; returns the scale's bit pattern, its sign bit set for the mid-rise grid.
uint32_t encode_fit(const QuantizerParams& params, const float* x, size_t m, uint32_t magnitude, uint8_t* codes) {
  const int bits = params.bits, s = centre(bits), half = 1 << (bits - 1);
  const Normalizer norm = normalizer(params, magnitude);
  float y[kMaxBlock];
  for (size_t i = 0; i < m; ++i) y[i] = x[i] * norm.inverse;
  const float inverse = mid_rise_inverse(bits, lane_sum(m, [&](size_t i) { return y[i] * y[i]; }), float(m));

  const auto centred = [&](size_t i) { return clip(round_half_even(y[i]), -s, s); };
  const auto mid_rise = [&](size_t i) { return clip(round_half_even(y[i] * inverse - 0.5f), -half, half - 1); };
  const auto odd = [&](size_t i) { return static_cast<float>(2 * mid_rise(i) + 1); };
  FitSums sums;
  sums.y_centred = lane_sum(m, [&](size_t i) { return y[i] * float(centred(i)); });
  sums.centred_centred = lane_sum(m, [&](size_t i) { return float(centred(i) * centred(i)); });
  sums.y_mid_rise = lane_sum(m, [&](size_t i) { return y[i] * odd(i); });
  sums.mid_rise_mid_rise = lane_sum(m, [&](size_t i) { return odd(i) * odd(i); });

  const FitChoice choice = choose_fit(params, magnitude, norm.unit, sums);
  for (size_t i = 0; i < m; ++i) codes[i] = static_cast<uint8_t>(choice.mid_rise ? mid_rise(i) + half : centred(i) + s);
  return std::bit_cast<uint32_t>(choice.scale) | (choice.mid_rise ? kSignBit : 0u);
}

// Codes of m elements of a Sign block; returns the scale's bit pattern.
uint32_t encode_sign(const QuantizerParams& params, const float* x, size_t m, uint32_t magnitude, uint8_t* codes) {
  const float factor = sign_factor(magnitude);
  for (size_t i = 0; i < m; ++i) codes[i] = x[i] >= 0.0f;
  const float sum = lane_sum(m, [&](size_t i) { return std::abs(x[i]) * factor; });
  return std::bit_cast<uint32_t>(sign_scale(params, magnitude, sum, float(m)));
}

// Bytes of one word of a tile with `rows` rows.
size_t word_bytes(int bits, size_t rows) { return (static_cast<size_t>(bits) * rows + 7) / 8; }

// Packs the codes of t <= 256 elements; returns the end of what it wrote.
uint8_t* pack_tile(const uint8_t* codes, size_t t, int bits, uint8_t* out) {
  const size_t rows = (t + kLanes - 1) / kLanes, bytes = word_bytes(bits, rows);
  for (size_t lane = 0; lane < kLanes; ++lane) {
    uint64_t word = 0;
    for (size_t row = 0; row < rows && row * kLanes + lane < t; ++row) {
      word |= uint64_t{codes[row * kLanes + lane]} << (row * static_cast<size_t>(bits));
    }
    for (size_t byte = 0; byte < bytes; ++byte) *out++ = static_cast<uint8_t>(word >> (8 * byte));
  }
  return out;
}

// Inverse of pack_tile. Returns null if a bit that belongs to no element is set.
const uint8_t* unpack_tile(const uint8_t* in, size_t t, int bits, uint8_t* codes) {
  const size_t rows = (t + kLanes - 1) / kLanes, bytes = word_bytes(bits, rows);
  bool clean = true;
  for (size_t lane = 0; lane < kLanes; ++lane) {
    uint64_t word = 0;
    for (size_t byte = 0; byte < bytes; ++byte) word |= uint64_t{*in++} << (8 * byte);
    for (size_t row = 0; row < rows && row * kLanes + lane < t; ++row) {
      codes[row * kLanes + lane] = static_cast<uint8_t>(word & ((1u << bits) - 1u));
      word >>= bits;
    }
    clean = clean && word == 0;
  }
  return clean ? in : nullptr;
}

// One group of m elements: scales, codes and the decoded values of its blocks.
struct Group {
  size_t m = 0;
  uint32_t scales[kMaxBlock / 32];
  uint8_t codes[kMaxBlock];
  float values[kMaxBlock];

  // Decodes scales and codes into values.
  void decode(const QuantizerParams& params) {
    for (size_t i = 0; i < m; ++i) {
      const uint32_t scale = scales[i / params.block];
      const bool mid_rise = params.rounding == Rounding::kFit && (scale & kSignBit) != 0;
      values[i] = float(level(params.bits, mid_rise, codes[i])) * std::bit_cast<float>(scale & ~kSignBit);
    }
  }

  uint8_t* write(const QuantizerParams& params, uint8_t* out) const {
    const size_t blocks = (m + params.block - 1) / params.block;
    for (size_t j = 0; j < blocks; ++j) write_scale(params, scales[j], j, out);
    out += params.scale_bytes() * blocks;
    for (size_t i = 0; i < m; i += kTile) out = pack_tile(codes + i, std::min(kTile, m - i), params.bits, out);
    return out;
  }

  // Returns the end of the group, or null if padding is not zero (and then reads no further).
  const uint8_t* read(const QuantizerParams& params, const uint8_t* in) {
    const size_t blocks = (m + params.block - 1) / params.block;
    for (size_t j = 0; j < blocks; ++j) scales[j] = read_scale(params, in, j);
    in += params.scale_bytes() * blocks;
    for (size_t i = 0; i < m && in != nullptr; i += kTile) {
      in = unpack_tile(in, std::min(kTile, m - i), params.bits, codes + i);
    }
    return in;
  }
};

// Encodes m elements of `x` as one block; false if one of them is not finite, which leaves an empty block.
bool encode_block(const QuantizerParams& params, const float* x, size_t m, PhiloxKey key, uint64_t offset,
                  uint32_t* scale, uint8_t* codes) {
  uint32_t magnitude = 0;
  for (size_t i = 0; i < m; ++i) magnitude = std::max(magnitude, magnitude_bits(x[i]));
  if (magnitude >= kInfBits || magnitude < tiny_bits(params)) {
    *scale = 0;
    std::memset(codes, 0, m);
    return magnitude < kInfBits;
  }
  switch (params.rounding) {
    case Rounding::kFit:
      *scale = encode_fit(params, x, m, magnitude, codes);
      break;
    case Rounding::kSign:
      *scale = encode_sign(params, x, m, magnitude, codes);
      break;
    case Rounding::kStochastic:
    case Rounding::kNearest:
      *scale = encode_unbiased(params, x, m, magnitude, key, offset, codes);
      break;
  }
  return true;
}

// X: element type, S: type of the state and of the arithmetic around it.
template <class X, class S>
bool quantize_typed(const QuantizerParams& params, Form form, const X* x, S* state, size_t n, PhiloxKey key,
                    uint64_t offset, uint8_t* out) {
  const auto quantity = [&](size_t i) {
    const S v = widen(x[i]);
    return form == Form::kResidual ? state[i] + v : form == Form::kShifted ? v - state[i] : v;
  };
  bool finite = true;
  Group group;
  float v[kMaxBlock];
  for (size_t begin = 0; begin < n; begin += params.group()) {
    group.m = std::min(params.group(), n - begin);
    bool block_finite[kMaxBlock / 32];
    for (size_t i = 0; i < group.m; ++i) v[i] = static_cast<float>(quantity(begin + i));
    for (size_t i = 0; i < group.m; i += params.block) {
      const size_t block = i / params.block;
      block_finite[block] = encode_block(params, v + i, std::min<size_t>(params.block, group.m - i), key,
                                         offset + begin + i, &group.scales[block], group.codes + i);
      finite = finite && block_finite[block];
    }
    out = group.write(params, out);
    if (form == Form::kPlain) continue;
    group.decode(params);
    for (size_t i = 0; i < group.m; ++i) {
      if (!block_finite[i / params.block]) continue;
      const S value = group.values[i];
      S& s = state[begin + i];
      s = form == Form::kResidual ? quantity(begin + i) - value : s + value;
    }
  }
  return finite;
}

}  // namespace

bool quantize(const QuantizerParams& params, Form form, ConstView x, void* state, PhiloxKey key, uint64_t offset,
              uint8_t* out) {
  return with_type(x, [&](const auto* elements) {
    using S = decltype(widen(*elements));
    return quantize_typed(params, form, elements, static_cast<S*>(state), x.numel, key, offset, out);
  });
}

void dequantize_add(const QuantizerParams& params, const uint8_t* in, size_t n, double scale, View acc) {
  Group group;
  for (size_t begin = 0; begin < n; begin += params.group()) {
    group.m = std::min(params.group(), n - begin);
    group.read(params, in + quantizer_bytes(begin, params));
    group.decode(params);
    const auto add = [&](auto* sums) {
      using S = std::remove_pointer_t<decltype(sums)>;
      for (size_t i = 0; i < group.m; ++i) sums[begin + i] += static_cast<S>(scale) * static_cast<S>(group.values[i]);
    };
    acc.dtype == DType::kFloat64 ? add(acc.as<double>()) : add(acc.as<float>());
  }
}

void dequantize_mean(const QuantizerParams& params, const uint8_t* const* in, size_t count, View out) {
  dequantize_mean_from(params, in, count, 0, out);
}

void dequantize_mean_from(const QuantizerParams& params, const uint8_t* const* in, size_t count, size_t begin,
                          View out) {
  with_type(out, [&](auto* elements) {
    using S = decltype(widen(*elements));
    Group group;
    for (size_t i = 0; i < out.numel; i += params.group()) {
      group.m = std::min(params.group(), out.numel - i);
      const size_t offset = quantizer_bytes(begin + i, params);
      S sums[kMaxBlock] = {};
      for (size_t message = 0; message < count; ++message) {
        group.read(params, in[message] + offset);
        group.decode(params);
        for (size_t j = 0; j < group.m; ++j) sums[j] += static_cast<S>(group.values[j]);
      }
      for (size_t j = 0; j < group.m; ++j) {
        narrow(count > 1 ? sums[j] / static_cast<S>(count) : sums[j], &elements[i + j]);
      }
    }
  });
}

bool valid_payload(const QuantizerParams& params, const uint8_t* in, size_t n) {
  const bool fit = params.rounding == Rounding::kFit;
  Group group;
  for (size_t begin = 0; begin < n; begin += params.group()) {
    group.m = std::min(params.group(), n - begin);
    in = group.read(params, in);
    if (in == nullptr) return false;
    for (size_t i = 0; i < group.m; ++i) {
      const int largest = largest_code(params.bits, fit, group.scales[i / params.block]);
      if (largest < 0) return false;
      if (group.codes[i] > largest) return false;
    }
  }
  return true;
}

bool all_finite(ConstView x) {
  return with_type(x, [&](const auto* elements) {
    return std::all_of(elements, elements + x.numel,
                       [](auto v) { return magnitude_bits(static_cast<float>(widen(v))) < kInfBits; });
  });
}

bool all_ordinary(ConstView x) {
  return with_type(x, [&](const auto* elements) {
    return std::all_of(elements, elements + x.numel,
                       [](auto v) { return magnitude_bits(static_cast<float>(widen(v))) < kExtraordinaryBits; });
  });
}

bool all_zero(ConstView x) {
  return with_type(x, [&](const auto* elements) {
    return std::all_of(elements, elements + x.numel, [](auto v) { return widen(v) == 0; });
  });
}

}  // namespace tsq::kernels::scalar
