// The oracle: docs/wire_format.md, codec 5, in plain loops.
#include <algorithm>
#include <cstring>
#include <type_traits>

#include "common/bytes.h"
#include "kernels/cpu/block.h"
#include "kernels/cpu/rans.h"
#include "kernels/scalar.h"
#include "kernels/uniform_step.h"

namespace tsq::kernels::scalar {
namespace {

/// The dither of consecutive elements, a tile at a time.
class Dither {
 public:
  explicit Dither(PhiloxKey key) : key_(key) {}

  float at(uint64_t index) {
    if (index / kTile != tile_) fill(index / kTile);
    return u_[index % kTile];
  }

 private:
  void fill(uint64_t tile) {
    tile_ = tile;
    for (uint64_t lane = 0; lane < kLanes; ++lane) {
      const uint64_t counter = tile * kLanes + lane;
      const auto words = philox4x32({static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), 0, 0}, key_);
      for (size_t row = 0; row < kTile / kLanes; ++row) {
        const uint32_t r = words[row / 2] >> (16 * (row % 2)) & 0xFFFFu;
        u_[row * kLanes + lane] = std::bit_cast<float>(0x3F800040u | r << 7) - 1.5f;
      }
    }
  }

  PhiloxKey key_;
  uint64_t tile_ = UINT64_MAX;
  float u_[kTile];
};

/// Appends elements to the streams.
class Splitter {
 public:
  explicit Splitter(UniformCodes& out, size_t n) : out_(out) {
    out.numel = n;
    out.nonzeros = out.escapes = 0;
    std::memset(out.flags, 0, (n + 7) / 8 + 8);
    std::memset(out.signs, 0, (n + 7) / 8 + UniformCodes::kSlack);
  }

  void add(size_t i, int q) {
    if (q == 0) return;
    const auto magnitude = static_cast<uint32_t>(q < 0 ? -q : q);
    out_.flags[i / 8] |= static_cast<uint8_t>(1u << (i % 8));
    if (q < 0) out_.signs[out_.nonzeros / 8] |= static_cast<uint8_t>(1u << (out_.nonzeros % 8));
    out_.magnitudes[out_.nonzeros++] = static_cast<uint8_t>(std::min(magnitude, kUniformEscape) - 1);
    if (magnitude >= kUniformEscape) out_.escaped[out_.escapes++] = static_cast<uint16_t>(magnitude);
  }

 private:
  UniformCodes& out_;
};

template <class X, class S>
bool quantize_typed(const UniformGrid& grid, Form form, const X* x, S* state, size_t n, uint64_t offset,
                    UniformCodes& out) {
  const auto quantity = [&](size_t i) {
    const S v = widen(x[i]);
    return form == Form::kResidual ? state[i] + v : form == Form::kShifted ? v - state[i] : v;
  };
  for (size_t i = 0; i < n; ++i)
    if (magnitude_bits(static_cast<float>(quantity(i))) >= kInfBits) return false;
  constexpr float kTop = static_cast<float>(kUniformMax);
  Splitter splitter(out, n);
  Dither dither(grid.key);
  for (size_t i = 0; i < n; ++i) {
    const S z = quantity(i);
    float t = static_cast<float>(z) * grid.inverse;
    if (grid.stochastic && grid.inverse != 0) t = t + dither.at(offset + i);
    t = std::min(std::max(t + kRounder, kRounder - kTop), kRounder + kTop) - kRounder;
    splitter.add(i, static_cast<int>(t));
    const S value = t * grid.step;
    if (form == Form::kResidual) state[i] = z - value;
    if (form == Form::kShifted) state[i] += value;
  }
  return true;
}

}  // namespace

bool quantize_uniform(const UniformGrid& grid, Form form, ConstView x, void* state, uint64_t offset,
                      UniformCodes& out) {
  return with_type(x, [&](const auto* elements) {
    using S = decltype(widen(*elements));
    return quantize_typed(grid, form, elements, static_cast<S*>(state), x.numel, offset, out);
  });
}

// Pairs of symbols, as bytes, in four tables: increments of one number would wait for each other.
UniformCounts count_uniform(const UniformCodes& codes) {
  UniformCounts counts{};
  const auto count = [](uint32_t* to, size_t eights, auto load_eight) {
    uint32_t pairs[4][256] = {};
    for (size_t i = 0; i < eights; ++i) {
      const uint64_t eight = load_eight(i);
      for (size_t k = 0; k < 8; ++k) ++pairs[k % 4][eight >> (8 * k) & 255];
    }
    for (size_t pair = 0; pair < 256; ++pair) {
      const uint32_t sum = pairs[0][pair] + pairs[1][pair] + pairs[2][pair] + pairs[3][pair];
      to[pair & 15] += sum;
      to[pair >> 4] += sum;
    }
  };
  const size_t groups = codes.groups() / 16, magnitudes = codes.nonzeros / 16;
  count(counts.flags, groups, [&](size_t i) { return tsq::load<uint64_t>(codes.flags + 8 * i); });
  count(counts.magnitudes, magnitudes, [&](size_t i) {
    return tsq::load<uint64_t>(codes.magnitudes + 16 * i) | tsq::load<uint64_t>(codes.magnitudes + 16 * i + 8) << 4;
  });
  for (size_t i = 16 * groups; i < codes.groups(); ++i) ++counts.flags[codes.flags[i / 2] >> (4 * (i % 2)) & 15];
  for (size_t i = 16 * magnitudes; i < codes.nonzeros; ++i) ++counts.magnitudes[codes.magnitudes[i]];
  return counts;
}

uint16_t* encode_rans(const UniformCodes& codes, const RansTable& flags, const RansTable& magnitudes, uint32_t* states,
                      uint16_t* end) {
  const size_t lanes = rans_lanes(codes.numel);
  RansEncoder encoder{states, end};
  for (size_t i = codes.nonzeros; i-- > 0;) encoder.put(i % lanes, codes.magnitudes[i], magnitudes);
  for (size_t i = codes.groups(); i-- > 0;) encoder.put(i % lanes, codes.flags[i / 2] >> (4 * (i % 2)) & 15u, flags);
  return encoder.next;
}

const uint8_t* decode_rans(const RansTable& flags, const RansTable& magnitudes, uint32_t* states, const uint8_t* in,
                           const uint8_t* end, UniformCodes& codes) {
  const size_t lanes = rans_lanes(codes.numel);
  RansDecoder decoder{states, in, end};
  const RansSlots flag_slots(flags), magnitude_slots(magnitudes);
  std::memset(codes.flags, 0, (codes.numel + 7) / 8 + 8);
  codes.nonzeros = 0;
  for (size_t i = 0; i < codes.groups(); ++i) {
    const uint32_t symbol = decoder.get(i % lanes, flag_slots);
    codes.flags[i / 2] |= static_cast<uint8_t>(symbol << (4 * (i % 2)));
    codes.nonzeros += static_cast<size_t>(std::popcount(symbol));
  }
  codes.nonzeros = std::min(codes.nonzeros, codes.numel);  // hostile flags behind the last element
  for (size_t i = 0; i < codes.nonzeros && !decoder.missing; ++i)
    codes.magnitudes[i] = static_cast<uint8_t>(decoder.get(i % lanes, magnitude_slots));
  return decoder.missing ? nullptr : decoder.next;
}

void add_uniform(const UniformCodes& codes, float step, double scale, View acc) {
  const auto add = [&](auto* sums) {
    using S = std::remove_pointer_t<decltype(sums)>;
    size_t nonzero = 0, escape = 0;
    for (size_t i = 0; i < codes.numel; ++i) {
      if (!(codes.flags[i / 8] >> (i % 8) & 1)) continue;
      uint32_t magnitude = codes.magnitudes[nonzero] + 1u;
      if (magnitude == kUniformEscape) magnitude = codes.escaped[escape++];
      const bool negative = codes.signs[nonzero / 8] >> (nonzero % 8) & 1;
      ++nonzero;
      const float value =
          static_cast<float>(negative ? -static_cast<int>(magnitude) : static_cast<int>(magnitude)) * step;
      sums[i] += static_cast<S>(scale) * static_cast<S>(value);
    }
  };
  acc.dtype == DType::kFloat64 ? add(acc.as<double>()) : add(acc.as<float>());
}

}  // namespace tsq::kernels::scalar
