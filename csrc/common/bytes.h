// Little-endian loads and stores at any alignment, and spans of bytes.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <span>

namespace tsq {

static_assert(std::endian::native == std::endian::little,
              "the wire format is little-endian and so are all supported hosts");

using Bytes = std::span<const uint8_t>;
using MutableBytes = std::span<uint8_t>;

template <class T>
T load(const uint8_t* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

template <class T>
void store(uint8_t* to, T value) {
  std::memcpy(to, &value, sizeof(T));
}

}  // namespace tsq
