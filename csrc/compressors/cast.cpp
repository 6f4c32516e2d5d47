#include "compressors/cast.h"

#include <algorithm>
#include <cmath>

#include "common/error.h"
#include "common/fp8.h"
#include "common/half.h"
#include "compressors/accumulate.h"
#include "compressors/quantity.h"
#include "compressors/sweep.h"
#include "kernels/cpu/block.h"
#include "kernels/dithering.h"
#include "kernels/float8.h"

namespace tsq {

namespace {

constexpr float kFaint = 0x1p-96f;  // 8-bit blocks whose largest magnitude is below are sent as zeros

/// 16-bit formats: no scale. Codes of finite numbers from 0 to kLargest, and with a sign.
template <class T, T (*kConvert)(float), uint16_t kLargest>
struct Sixteen {
  static constexpr size_t bytes(size_t n) { return 2 * n; }

  static void encode(const float* z, size_t m, uint8_t* out) {
    for (size_t i = 0; i < m; ++i) {
      const uint16_t code = kConvert(z[i]).bits, magnitude = code & 0x7FFFu;
      store<uint16_t>(out + 2 * i, static_cast<uint16_t>((code & 0x8000u) | std::min(magnitude, kLargest)));
    }
  }

  static void decode(const uint8_t* in, size_t m, float* values) {
    for (size_t i = 0; i < m; ++i) values[i] = to_float(T{load<uint16_t>(in + 2 * i)});
  }

  static void check(const uint8_t* in, size_t m) {
    uint16_t largest = 0;
    for (size_t i = 0; i < m; ++i) largest = std::max<uint16_t>(largest, load<uint16_t>(in + 2 * i) & 0x7FFFu);
    if (largest > kLargest) throw_wire("payload", "finite values", "others");
  }
};

/// 8-bit formats: a scale, then codes.
template <class F, kernels::Float8Format kFormat>
struct Eight {
  static constexpr float kTop = F::decode(F::kLargestCode);
  static constexpr float kCap = 0x1.FFFFFp127f / kTop;  // the largest scale whose largest multiple is finite
  static constexpr size_t bytes(size_t n) { return n + 4 * (n / Cast::kBlock + (n % Cast::kBlock != 0)); }

  static void encode(const float* z, size_t m, uint8_t* out) {
    const float largest = std::bit_cast<float>(kernels::largest_magnitude(z, m));
    const bool faint = largest < kFaint;
    const float inverse = faint ? 0.0f : kTop / largest;
    store<float>(out, faint ? 0.0f : std::min(largest / kTop, kCap));
    if (faint)
      std::fill_n(out + 4, m, uint8_t{0});
    else
      kernels::encode_float8(kFormat, z, m, inverse, out + 4);
  }

  static void decode(const uint8_t* in, size_t m, float* values) {
    kernels::decode_float8(kFormat, in + 4, m, load<float>(in), values);
  }

  static void check(const uint8_t* in, size_t m) {
    const float scale = load<float>(in);
    if (std::signbit(scale) || !(scale <= kCap)) throw_wire("payload", concat("scales from 0 to ", kCap), scale);
    const auto largest = [](uint8_t a, uint8_t b) { return std::max<uint8_t>(a, b & 0x7F); };
    uint8_t most = 0, any = 0;
    for (size_t i = 0; i < m; ++i) {
      most = largest(most, in[4 + i]);
      any |= in[4 + i];
    }
    if (most > F::kLargestCode) throw_wire("payload", "finite values", "others");
    if (scale == 0.0f && any != 0) throw_wire("payload", "codes 0 in a block with scale 0", "others");
  }
};

/// Calls visit(codec) for the codec of `to`.
template <class Visit>
auto with_codec(CastTo to, Visit visit) {
  switch (to) {
    case CastTo::kHalf:
      return visit(Sixteen<Half, to_half, 0x7BFF>());
    case CastTo::kBFloat16:
      return visit(Sixteen<BFloat16, to_bfloat16, 0x7F7F>());
    case CastTo::kE4M3:
      return visit(Eight<FloatE4M3, kernels::Float8Format::kE4M3>());
    case CastTo::kE5M2:
      break;
  }
  return visit(Eight<FloatE5M2, kernels::Float8Format::kE5M2>());
}

bool all_finite(const Quantity& quantity, size_t n) {
  return sweep_all(n, [&](size_t first, size_t numel) {
    float z[Cast::kBlock];
    for (size_t i = first, end = first + numel; i < end; i += Cast::kBlock) {
      const size_t m = std::min(Cast::kBlock, end - i);
      quantity.load(i, m, z);
      if (kernels::largest_magnitude(z, m) >= kernels::kInfBits) return false;
    }
    return true;
  });
}

}  // namespace

std::string Cast::spec() const { return concat("Cast(dtype='", kCastNames[static_cast<size_t>(to_)], "')"); }

Class Cast::class_of(size_t, uint32_t) const {
  constexpr double kLost[] = {0x1p-22, 0x1p-16, 0x1p-8 * (1 + 0x1p-10), 0x1p-6 * (1 + 0x1p-10)};
  return {.omega = std::nullopt, .alpha = 1.0 - kLost[static_cast<size_t>(to_)]};
}

size_t Cast::max_bytes(size_t n, DType) const {
  return with_codec(to_, [&](auto codec) { return decltype(codec)::bytes(n); });
}

double Cast::expected_bits(size_t n, DType dtype) const { return 8.0 * static_cast<double>(max_bytes(n, dtype)); }

Compressor::Encoded Cast::run(kernels::Form form, ConstView x, void* state, const EncodeKey&, MutableBytes out) const {
  const Quantity quantity(form, x, state);
  const size_t n = x.numel, bytes = max_bytes(n, x.dtype);
  if (!all_finite(quantity, n)) {
    std::fill_n(out.begin(), bytes, uint8_t{0});
    return {bytes, false};
  }
  with_codec(to_, [&](auto codec) {
    using C = decltype(codec);
    sweep(n, [&](size_t first, size_t numel) {
      for (size_t i = first, end = first + numel; i < end; i += kBlock) {
        float z[kBlock];
        const size_t m = std::min(kBlock, end - i);
        uint8_t* const to = out.data() + C::bytes(i);
        quantity.load(i, m, z);
        C::encode(z, m, to);
        if (form == kernels::Form::kPlain) continue;
        C::decode(to, m, z);
        quantity.update(i, m, z);
      }
    });
  });
  return {bytes, true};
}

void Cast::validate(Bytes in, uint64_t n, DType dtype) const {
  // The first test keeps the length formula of a hostile n from overflowing: an element takes at least one byte.
  if (n > in.size() || max_bytes(n, dtype) != in.size())
    throw_wire("bytes", concat("those of ", n, " elements of ", spec()), in.size());
  with_codec(to_, [&](auto codec) {
    using C = decltype(codec);
    sweep(n, [&](size_t first, size_t numel) {
      for (size_t i = first, end = first + numel; i < end; i += kBlock)
        C::check(in.data() + C::bytes(i), std::min(kBlock, end - i));
    });
  });
}

/// Calls f with the visit (compressors/accumulate.h) of these payloads.
template <class F>
void Cast::visit(std::span<const Bytes> in, size_t n, double scale, const F& f) const {
  with_codec(to_, [&](auto codec) {
    using C = decltype(codec);
    f([=](const auto& start, const auto& done) {
      sweep(n, [&](size_t first, size_t numel) {
        for (size_t begin = first, end = first + numel; begin < end; begin += kBlock) {
          const View sums = start(begin, std::min(kBlock, end - begin));
          float values[kBlock];
          for (const Bytes& payload : in) {
            C::decode(payload.data() + C::bytes(begin), sums.numel, values);
            add_values(values, scale, sums);
          }
          done(begin, sums);
        }
      });
    });
  });
}

void Cast::decode_add(Bytes in, DType, double scale, View acc) const {
  visit({&in, 1}, acc.numel, scale, [&](const auto& blocks) { add_parts(acc, blocks); });
}

void Cast::decode_mean(std::span<const Bytes> in, View out) const {
  visit(in, out.numel, 1.0, [&](const auto& blocks) { mean_parts(in.size(), out, blocks); });
}

void Cast::decode_update(std::span<const Bytes> in, double scale, View acc, View out) const {
  visit(in, acc.numel, scale, [&](const auto& blocks) { update_parts(acc, out, blocks); });
}

}  // namespace tsq
