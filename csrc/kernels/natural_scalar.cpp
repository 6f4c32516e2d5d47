// The oracle: docs/wire_format.md, codec 4, in plain loops.
#include <algorithm>
#include <cstring>
#include <type_traits>

#include "kernels/cpu/block.h"
#include "kernels/natural.h"
#include "kernels/scalar.h"

namespace tsq::kernels::scalar {
namespace {

// One tile of m <= 256 elements.
struct Tile {
  size_t m = 0;
  uint8_t exponents[kTile];
  uint8_t signs[kLanes];  // bit k: row k

  bool negative(size_t i) const { return signs[i % kLanes] >> (i / kLanes) & 1; }

  float value(size_t i) const {
    return std::bit_cast<float>(uint32_t{exponents[i]} << 23 | (negative(i) ? kSignBit : 0u));
  }

  void encode(const float* x, PhiloxKey key, uint64_t offset) {
    std::memset(signs, 0, sizeof signs);
    for (size_t i = 0; i < m; ++i) {
      const uint32_t bits = std::bit_cast<uint32_t>(x[i]), magnitude = bits & ~kSignBit;
      exponents[i] = 0;
      if (magnitude < kNaturalMinBits) continue;
      exponents[i] = static_cast<uint8_t>((magnitude + (dither_bits(key, offset + i) << 7 | 64u)) >> 23);
      signs[i % kLanes] |= static_cast<uint8_t>(bits >> 31 << (i / kLanes));
    }
  }

  void write(uint8_t* out) const {
    std::memcpy(out, exponents, m);
    std::memcpy(out + m, signs, sizeof signs);
  }

  void read(const uint8_t* in) {
    std::memcpy(exponents, in, m);
    std::memcpy(signs, in + m, sizeof signs);
  }
};

// Calls visit(first element, tile) for every tile, with its m set.
template <class Visit>
void for_each_tile(size_t n, Visit visit) {
  Tile tile;
  for (size_t begin = 0; begin < n; begin += kTile) {
    tile.m = std::min(kTile, n - begin);
    visit(begin, tile);
  }
}

template <class X, class S>
bool encode_typed(Form form, const X* x, S* state, size_t n, PhiloxKey key, uint64_t offset, uint8_t* out) {
  const auto quantity = [&](size_t i) {
    const S v = widen(x[i]);
    return form == Form::kResidual ? state[i] + v : form == Form::kShifted ? v - state[i] : v;
  };
  bool finite = true;
  for_each_tile(n, [&](size_t begin, Tile& tile) {
    float v[kTile];
    uint32_t magnitude = 0;
    for (size_t i = 0; i < tile.m; ++i) {
      v[i] = static_cast<float>(quantity(begin + i));
      magnitude = std::max(magnitude, magnitude_bits(v[i]));
    }
    if (magnitude >= kNaturalLimitBits) {
      std::memset(out + natural_bytes(begin), 0, natural_bytes(tile.m));
      finite = false;
      return;
    }
    tile.encode(v, key, offset + begin);
    tile.write(out + natural_bytes(begin));
    if (form == Form::kPlain) return;
    for (size_t i = 0; i < tile.m; ++i) {
      const S value = tile.value(i);
      S& s = state[begin + i];
      s = form == Form::kResidual ? quantity(begin + i) - value : s + value;
    }
  });
  return finite;
}

}  // namespace

bool encode_natural(Form form, ConstView x, void* state, PhiloxKey key, uint64_t offset, uint8_t* out) {
  return with_type(x, [&](const auto* elements) {
    using S = decltype(widen(*elements));
    return encode_typed(form, elements, static_cast<S*>(state), x.numel, key, offset, out);
  });
}

void decode_natural_add(const uint8_t* in, size_t n, double scale, View acc) {
  for_each_tile(n, [&](size_t begin, Tile& tile) {
    tile.read(in + natural_bytes(begin));
    const auto add = [&](auto* sums) {
      using S = std::remove_pointer_t<decltype(sums)>;
      for (size_t i = 0; i < tile.m; ++i) sums[begin + i] += static_cast<S>(scale) * static_cast<S>(tile.value(i));
    };
    acc.dtype == DType::kFloat64 ? add(acc.as<double>()) : add(acc.as<float>());
  });
}

void decode_natural_mean(const uint8_t* const* in, size_t count, View out) {
  decode_natural_mean_from(in, count, 0, out);
}

void decode_natural_mean_from(const uint8_t* const* in, size_t count, size_t begin, View out) {
  with_type(out, [&](auto* elements) {
    using S = decltype(widen(*elements));
    for_each_tile(out.numel, [&](size_t i, Tile& tile) {
      S sums[kTile] = {};
      for (size_t message = 0; message < count; ++message) {
        tile.read(in[message] + natural_bytes(begin + i));
        for (size_t j = 0; j < tile.m; ++j) sums[j] += static_cast<S>(tile.value(j));
      }
      for (size_t j = 0; j < tile.m; ++j) {
        narrow(count > 1 ? sums[j] / static_cast<S>(count) : sums[j], &elements[i + j]);
      }
    });
  });
}

bool valid_natural(const uint8_t* in, size_t n) {
  bool valid = true;
  for_each_tile(n, [&](size_t begin, Tile& tile) {
    tile.read(in + natural_bytes(begin));
    uint8_t left[kLanes];
    std::memcpy(left, tile.signs, sizeof left);
    for (size_t i = 0; i < tile.m; ++i) {
      const bool zero_negative = tile.exponents[i] == 0 && tile.negative(i);
      valid = valid && tile.exponents[i] != 255 && !zero_negative;
      left[i % kLanes] &= static_cast<uint8_t>(~(1u << (i / kLanes)));
    }
    valid = valid && std::all_of(left, left + kLanes, [](uint8_t bits) { return bits == 0; });
  });
  return valid;
}

}  // namespace tsq::kernels::scalar
