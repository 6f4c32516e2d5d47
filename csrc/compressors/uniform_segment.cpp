#include "compressors/uniform_segment.h"

#include <algorithm>
#include <bit>
#include <vector>

#include "common/error.h"

namespace tsq {

using kernels::RansTable;
using kernels::UniformCodes;

namespace {

constexpr uint32_t kTotal = 4096;

void set_starts(RansTable& table) {
  uint32_t sum = 0;
  for (size_t s = 0; s < 16; ++s) {
    table.start[s] = static_cast<uint16_t>(sum);
    sum += table.frequency[s];
  }
}

uint32_t used_symbols(const RansTable& table) {
  uint32_t used = 0;
  for (size_t s = 0; s < 16; ++s)  // not (f != 0 ? 1u : 0u) << s, which g++ 12 gets wrong under -fsanitize=undefined
    if (table.frequency[s] != 0) used |= 1u << s;
  return used;
}

size_t packed_bytes(uint32_t used_flags, uint32_t used_magnitudes) {
  const int values = std::popcount(used_flags) + std::popcount(used_magnitudes) - 2;
  return (12 * static_cast<size_t>(values) + 7) / 8;
}

/// Bit i of a little-endian string of 12-bit values.
void put12(uint8_t* out, size_t index, uint32_t value) {
  uint8_t* p = out + 12 * index / 8;
  if (index % 2 == 0) {
    p[0] = static_cast<uint8_t>(value);
    p[1] = static_cast<uint8_t>(value >> 8);
  } else {
    p[0] = static_cast<uint8_t>(p[0] | value << 4);
    p[1] = static_cast<uint8_t>(value >> 4);
  }
}

uint32_t get12(const uint8_t* in, size_t index) {
  const uint8_t* p = in + 12 * index / 8;
  return index % 2 == 0 ? p[0] | (p[1] & 15u) << 8 : p[0] >> 4 | uint32_t{p[1]} << 4;
}

/// Appends the frequencies of the used symbols except the last.
size_t pack(const RansTable& table, size_t index, uint8_t* out) {
  const uint32_t used = used_symbols(table), last = 31u - static_cast<uint32_t>(std::countl_zero(used));
  for (uint32_t s = 0; s < last; ++s)
    if (used >> s & 1) put12(out, index++, table.frequency[s]);
  return index;
}

/// The inverse; throws unless all frequencies are above 0 and leave something for the last.
RansTable unpack(const uint8_t* in, uint32_t used, size_t* index) {
  RansTable table{};
  const uint32_t last = 31u - static_cast<uint32_t>(std::countl_zero(used));
  uint32_t sum = 0;
  for (uint32_t s = 0; s < last; ++s) {
    if (!(used >> s & 1)) continue;
    const uint32_t f = get12(in, (*index)++);
    if (f == 0) throw_wire("payload", "frequencies above 0", 0);
    table.frequency[s] = static_cast<uint16_t>(f);
    sum += f;
  }
  if (sum >= kTotal) throw_wire("payload", concat("frequencies below ", kTotal, " in sum"), sum);
  table.frequency[last] = static_cast<uint16_t>(kTotal - sum);
  set_starts(table);
  return table;
}

constexpr size_t kStateBits = 20;                                 // of a state in the string of states, at least
constexpr size_t kStringRoom = 35 * kernels::kRansLanes / 8 + 8;  // eight bytes may be loaded and stored at every bit

/// The string of states: of each, e = floor(log2) - 16 in 4 bits and its lowest 16 + e bits. Returns its bytes.
size_t put_states(const uint32_t* states, size_t lanes, uint8_t* out) {
  uint8_t string[kStringRoom] = {};
  size_t bit = 0;
  for (size_t l = 0; l < lanes; ++l) {
    const auto e = static_cast<uint32_t>(std::bit_width(states[l])) - 17;
    const uint64_t low = states[l] ^ 1u << (16 + e), entry = e | low << 4;
    store<uint64_t>(string + bit / 8, load<uint64_t>(string + bit / 8) | entry << (bit % 8));
    bit += kStateBits + e;
  }
  std::memcpy(out, string, (bit + 7) / 8);
  return (bit + 7) / 8;
}

/// The inverse; throws unless the string is there and its padding is 0.
size_t get_states(Bytes in, uint32_t* states, size_t lanes) {
  uint8_t string[kStringRoom] = {};
  std::memcpy(string, in.data(), std::min(in.size(), kStringRoom - 8));
  size_t bit = 0;
  for (size_t l = 0; l < lanes; ++l) {
    const uint64_t entry = load<uint64_t>(string + bit / 8) >> (bit % 8);
    const uint32_t e = entry & 15, top = 1u << (16 + e);
    states[l] = top | (static_cast<uint32_t>(entry >> 4) & (top - 1));
    bit += kStateBits + e;
  }
  const size_t bytes = (bit + 7) / 8;
  if (in.size() < bytes) throw_wire("payload", concat(bytes, " bytes of states"), in.size());
  if (bit % 8 != 0 && string[bit / 8] >> (bit % 8) != 0) throw_wire("payload", "padding of 0", "another");
  return bytes;
}

/// Signs that do not fit into the states, in bytes.
size_t sign_bytes(size_t nonzeros, size_t lanes) { return nonzeros > 16 * lanes ? (nonzeros - 16 * lanes + 7) / 8 : 0; }

}  // namespace

RansTable make_rans_table(const uint32_t* counts) {
  RansTable table{};
  uint32_t total = 0, largest = 0, sum = 0;
  for (uint32_t s = 0; s < 16; ++s) {
    total += counts[s];
    if (counts[s] > counts[largest]) largest = s;
  }
  for (uint32_t s = 0; s < 16; ++s) {
    if (counts[s] == 0) continue;
    const uint32_t f = std::max((counts[s] * kTotal + total / 2) / total, 1u);
    table.frequency[s] = static_cast<uint16_t>(f);
    sum += f;
  }
  table.frequency[largest] = static_cast<uint16_t>(table.frequency[largest] + kTotal - sum);
  set_starts(table);
  return table;
}

size_t write_segment(const UniformCodes& codes, uint8_t* out) {
  if (codes.nonzeros == 0) return 0;
  const size_t lanes = kernels::rans_lanes(codes.numel);
  const kernels::UniformCounts counts = kernels::count_uniform(codes);
  const RansTable flags = make_rans_table(counts.flags), magnitudes = make_rans_table(counts.magnitudes);
  uint32_t states[kernels::kRansLanes];
  for (size_t l = 0; l < lanes; ++l) states[l] = kernels::kRansLow | load<uint16_t>(codes.signs + 2 * l);
  thread_local std::vector<uint16_t> words(kernels::kUniformSegment / 4 * 5 + 64);
  uint16_t* const end = words.data() + words.size();
  const uint16_t* const first = kernels::encode_rans(codes, flags, magnitudes, states, end);

  const uint32_t used_flags = used_symbols(flags), used_magnitudes = used_symbols(magnitudes);
  store<uint16_t>(out, static_cast<uint16_t>(used_flags));
  store<uint16_t>(out + 2, static_cast<uint16_t>(used_magnitudes));
  const size_t tables = packed_bytes(used_flags, used_magnitudes);
  pack(magnitudes, pack(flags, 0, out + 4), out + 4);
  uint8_t* p = out + 4 + tables;
  const auto append = [&](const void* from, size_t bytes) {
    std::memcpy(p, from, bytes);
    p += bytes;
  };
  p += put_states(states, lanes, p);
  append(first, 2 * static_cast<size_t>(end - first));
  append(codes.signs + 2 * lanes, sign_bytes(codes.nonzeros, lanes));
  append(codes.escaped, 2 * codes.escapes);
  return static_cast<size_t>(p - out);
}

namespace {

/// Signs from the states left by the decoder and from `in`; returns what is behind them.
const uint8_t* read_signs(const uint32_t* states, size_t lanes, const uint8_t* in, const uint8_t* end,
                          UniformCodes& codes) {
  for (size_t l = 0; l < lanes; ++l) {
    if (states[l] >> 16 != 1) throw_wire("payload", "states that end at their start", "others");
    store<uint16_t>(codes.signs + 2 * l, static_cast<uint16_t>(states[l]));
  }
  const size_t more = sign_bytes(codes.nonzeros, lanes);
  if (static_cast<size_t>(end - in) < more) throw_wire("payload", concat(more, " bytes of signs"), end - in);
  std::memcpy(codes.signs + 2 * lanes, in, more);
  const size_t bytes = 2 * lanes + more;
  size_t at = codes.nonzeros / 8;
  if (at < bytes && codes.signs[at] >> (codes.nonzeros % 8)) throw_wire("payload", "no sign without an element", "one");
  while (++at < bytes)
    if (codes.signs[at]) throw_wire("payload", "no sign without an element", "one");
  return in + more;
}

}  // namespace

void read_segment(Bytes in, const uint8_t* limit, size_t n, UniformCodes& codes) {
  codes.numel = n;
  codes.nonzeros = codes.escapes = 0;
  if (in.empty()) return;
  const size_t lanes = kernels::rans_lanes(n);
  if (in.size() < 4) throw_wire("payload", "4 bytes of masks", in.size());
  const uint32_t used_flags = load<uint16_t>(in.data()), used_magnitudes = load<uint16_t>(in.data() + 2);
  if (used_flags == 0 || used_magnitudes == 0) throw_wire("payload", "masks of used symbols above 0", 0);
  const size_t tables = packed_bytes(used_flags, used_magnitudes);
  if (in.size() < 4 + tables) throw_wire("payload", concat(4 + tables, " bytes of tables"), in.size());
  size_t index = 0;
  const RansTable flags = unpack(in.data() + 4, used_flags, &index);
  const RansTable magnitudes = unpack(in.data() + 4, used_magnitudes, &index);
  if (index % 2 != 0 && in[4 + tables - 1] >> 4 != 0) throw_wire("payload", "padding of 0", "another");
  uint32_t states[kernels::kRansLanes];
  const size_t at = 4 + tables + get_states(in.subspan(4 + tables), states, lanes);

  const uint8_t* const end = in.data() + in.size();
  const uint8_t* p = kernels::decode_rans(flags, magnitudes, states, in.data() + at, limit, codes);
  if (p == nullptr || p > end) throw_wire("payload", "all words of a segment", "fewer");
  if (n % 8 != 0 && codes.flags[n / 8] >> (n % 8) != 0) throw_wire("payload", "no flag without an element", "one");
  p = read_signs(states, lanes, p, end, codes);
  codes.escapes = static_cast<size_t>(std::count(codes.magnitudes, codes.magnitudes + codes.nonzeros, uint8_t{15}));
  if (static_cast<size_t>(end - p) != 2 * codes.escapes)
    throw_wire("payload", concat(codes.escapes, " escapes at the end of a segment"), concat(end - p, " bytes"));
  std::memcpy(codes.escaped, p, 2 * codes.escapes);
  for (size_t i = 0; i < codes.escapes; ++i)
    if (codes.escaped[i] < kernels::kUniformEscape || codes.escaped[i] > kernels::kUniformMax)
      throw_wire("payload", "escapes from 16 to 32767", codes.escaped[i]);
}

}  // namespace tsq
