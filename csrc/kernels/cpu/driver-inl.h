// The entry points of one target: element types, groups, tails. Included once per target.
#if defined(TSQ_KERNELS_CPU_DRIVER_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TSQ_KERNELS_CPU_DRIVER_INL_H_
#undef TSQ_KERNELS_CPU_DRIVER_INL_H_
#else
#define TSQ_KERNELS_CPU_DRIVER_INL_H_
#endif

#include <algorithm>
#include <bit>
#include <type_traits>

#include "hwy/highway.h"
#include "kernels/cpu/convert-inl.h"
#include "kernels/cpu/decode-inl.h"
#include "kernels/cpu/encode-inl.h"
#include "kernels/cpu/scan-inl.h"
#include "kernels/quantizer.h"

#if TSQ_HWY_VECTORS
HWY_BEFORE_NAMESPACE();
namespace tsq::kernels {
namespace HWY_NAMESPACE {

// ---- quantize -------------------------------------------------------------------------------------------------------

bool Quantize(const QuantizerParams& params, Form form, ConstView x, void* state, PhiloxKey key, uint64_t offset,
              uint8_t* out) {
  const EncodeRunFunction encode = params.bits == 4   ? ChooseEncodeRun<4>(params.rounding, params.bits)
                                   : params.bits == 8 ? ChooseEncodeRun<8>(params.rounding, params.bits)
                                                      : ChooseEncodeRun<0>(params.rounding, params.bits);
  const auto state_at = [&](size_t i) {
    return state != nullptr ? static_cast<char*>(state) + i * size_of(state_dtype(x.dtype)) : nullptr;
  };
  const size_t run = RunLength(params, form), full = x.numel / params.group() * params.group();
  bool finite = true;
  size_t i = 0;
  for (size_t count; i < full; i += count, out += quantizer_bytes(count, params)) {
    count = std::min(run, full - i);
    const bool done = EncodeAnyType(form, x, state, i, count, [&](Form as, const float* values, float* changed) {
      return encode({params, as, key, 2 * run}, values, changed, count, offset + i, out);
    });
    if (done) continue;
    finite = scalar::quantize(params, form, x.slice(i, count), state_at(i), key, offset + i, out) && finite;
  }
  if (i == x.numel) return finite;
  return scalar::quantize(params, form, x.slice(i, x.numel - i), state_at(i), key, offset + i, out) && finite;
}

// ---- dequantize -----------------------------------------------------------------------------------------------------

// Calls function(bits as a constant, is one scale common to a tile) with kBits = 0 for numbers of bits without a fast
// path.
template <class Function>
HWY_INLINE auto WithShape(const QuantizerParams& params, const Function& function) {
  const auto with_bits = [&](auto uniform) {
    switch (params.bits) {
      case 1:
        return function(std::integral_constant<int, 1>(), uniform);
      case 2:
        return function(std::integral_constant<int, 2>(), uniform);
      case 4:
        return function(std::integral_constant<int, 4>(), uniform);
      case 8:
        return function(std::integral_constant<int, 8>(), uniform);
      default:
        return function(std::integral_constant<int, 0>(), uniform);
    }
  };
  return params.block >= kTile ? with_bits(std::true_type()) : with_bits(std::false_type());
}

using AddGroupFunction = void (*)(const QuantizerParams&, const uint8_t*, float, float*);
using SumGroupFunction = void (*)(const QuantizerParams&, const uint8_t* const*, size_t, size_t, bool, const Divisor*,
                                  float*);

AddGroupFunction ChooseAddGroup(const QuantizerParams& params) {
  return WithShape(params, [](auto bits, auto uniform) -> AddGroupFunction {
    return AddGroup<decltype(bits)::value, decltype(uniform)::value>;
  });
}

SumGroupFunction ChooseSumGroup(const QuantizerParams& params) {
  return WithShape(params, [](auto bits, auto uniform) -> SumGroupFunction {
    return SumGroup<decltype(bits)::value, decltype(uniform)::value>;
  });
}

void DequantizeAdd(const QuantizerParams& params, const uint8_t* in, size_t n, double scale, View acc) {
  const AddGroupFunction add_group = ChooseAddGroup(params);
  const size_t group = params.group(), group_bytes = quantizer_bytes(group, params);
  size_t i = 0;
  for (; n - i >= group; i += group, in += group_bytes) {
    if (acc.dtype != DType::kFloat64) {
      add_group(params, in, static_cast<float>(scale), acc.as<float>() + i);
      continue;
    }
    HWY_ALIGN float values[kMaxBlock];
    std::fill_n(values, group, -0.0f);
    add_group(params, in, 1.0f, values);
    double* const sums = acc.as<double>() + i;
    for (size_t j = 0; j < group; ++j) sums[j] += scale * static_cast<double>(values[j]);
  }
  scalar::dequantize_add(params, in, n - i, scale, acc.slice(i, n - i));
}

// The mean of one full group, from byte `group_begin` of each message, in float32.
void MeanGroup(const QuantizerParams& params, SumGroupFunction sum_group, const uint8_t* const* in, size_t count,
               size_t group_begin, const Divisor& divisor, float* sums) {
  if (count == 0) std::fill_n(sums, params.group(), 0.0f);
  for (size_t m = 0; m < count; m += kMessagesAtOnce) {
    const size_t now = std::min(kMessagesAtOnce, count - m);
    const bool last = m + now == count && count > 1;
    sum_group(params, in + m, group_begin, now, m == 0, last ? &divisor : nullptr, sums);
  }
}

// Same in double.
void MeanGroup(const QuantizerParams& params, AddGroupFunction add_group, const uint8_t* const* in, size_t count,
               size_t group_begin, double* out) {
  const size_t group = params.group();
  std::fill_n(out, group, 0.0);
  for (size_t m = 0; m < count; ++m) {
    HWY_ALIGN float values[kMaxBlock];
    std::fill_n(values, group, -0.0f);
    add_group(params, in[m] + group_begin, 1.0f, values);
    for (size_t j = 0; j < group; ++j) out[j] += static_cast<double>(values[j]);
  }
  if (count > 1) {
    for (size_t j = 0; j < group; ++j) out[j] /= static_cast<double>(count);
  }
}

void DequantizeMean(const QuantizerParams& params, const uint8_t* const* in, size_t count, View out) {
  const SumGroupFunction sum_group = ChooseSumGroup(params);
  const Divisor divisor(count);
  const size_t group = params.group(), n = out.numel;
  HWY_ALIGN float sums[kMaxBlock];
  size_t i = 0;
  for (; n - i >= group; i += group) {
    const size_t begin = quantizer_bytes(i, params);
    switch (out.dtype) {
      case DType::kFloat32:
        MeanGroup(params, sum_group, in, count, begin, divisor, out.as<float>() + i);
        break;
      case DType::kFloat64:
        MeanGroup(params, ChooseAddGroup(params), in, count, begin, out.as<double>() + i);
        break;
      case DType::kFloat16:
        MeanGroup(params, sum_group, in, count, begin, divisor, sums);
        Narrow(sums, group, out.as<Half>() + i);
        break;
      case DType::kBFloat16:
        MeanGroup(params, sum_group, in, count, begin, divisor, sums);
        Narrow(sums, group, out.as<BFloat16>() + i);
        break;
    }
  }
  scalar::dequantize_mean_from(params, in, count, i, out.slice(i, n - i));
}

// ---- Checks ---------------------------------------------------------------------------------------------------------

bool ValidPayload(const QuantizerParams& params, const uint8_t* in, size_t n) {
  using ValidGroupFunction = bool (*)(const QuantizerParams&, const uint8_t*);
  const ValidGroupFunction valid_group =
      WithShape(params, [](auto bits, auto) -> ValidGroupFunction { return ValidGroup<decltype(bits)::value>; });
  const size_t group = params.group(), group_bytes = quantizer_bytes(group, params);
  size_t i = 0;
  for (; n - i >= group; i += group, in += group_bytes) {
    if (!valid_group(params, in)) return false;
  }
  return scalar::valid_payload(params, in, n - i);
}

// Whether no magnitude's bit pattern reaches that of a limit, given for float32, for the upper half of one (bfloat16)
// and for float64: the addend carries from the limit on. The largest float16 is below every limit.
HWY_INLINE size_t FindLarge(ConstView x, uint32_t limit32, uint64_t limit64, bool* found) {
  switch (x.dtype) {
    case DType::kFloat16:
      return FindCarry<uint16_t>(x.as<uint16_t>(), x.numel, 0x8000u - 0x7C00u, found);
    case DType::kBFloat16:
      return FindCarry<uint16_t>(x.as<uint16_t>(), x.numel, static_cast<uint16_t>(0x8000u - (limit32 >> 16)), found);
    case DType::kFloat64:
      return FindCarry<uint64_t>(x.as<uint64_t>(), x.numel, (uint64_t{1} << 63) - limit64, found);
    case DType::kFloat32:
      break;
  }
  return FindCarry<uint32_t>(x.as<uint32_t>(), x.numel, 0x80000000u - limit32, found);
}

bool AllFinite(ConstView x) {
  bool found = false;
  constexpr uint64_t kRoundsToInf = std::bit_cast<uint64_t>(0x1.FFFFFFp127);  // the double that rounds to a float's Inf
  const size_t seen = FindLarge(x, kInfBits, kRoundsToInf, &found);
  return !found && scalar::all_finite(x.slice(seen, x.numel - seen));
}

bool AllOrdinary(ConstView x) {
  bool found = false;
  const size_t seen = FindLarge(x, kExtraordinaryBits, std::bit_cast<uint64_t>(0x1p96), &found);
  return !found && scalar::all_ordinary(x.slice(seen, x.numel - seen));
}

bool AllZero(ConstView x) {
  bool found = false;
  size_t seen = 0;
  switch (size_of(x.dtype)) {
    case 2:
      seen = FindNonZero<uint16_t>(x.as<uint16_t>(), x.numel, &found);
      break;
    case 4:
      seen = FindNonZero<uint32_t>(x.as<uint32_t>(), x.numel, &found);
      break;
    case 8:
      seen = FindNonZero<uint64_t>(x.as<uint64_t>(), x.numel, &found);
      break;
  }
  return !found && scalar::all_zero(x.slice(seen, x.numel - seen));
}

}  // namespace HWY_NAMESPACE
}  // namespace tsq::kernels
HWY_AFTER_NAMESPACE();
#endif  // TSQ_HWY_VECTORS
#endif
