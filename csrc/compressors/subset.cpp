#include "compressors/subset.h"

#include <algorithm>
#include <bit>

#include "common/error.h"
#include "common/parallel.h"
#include "compressors/random_values.h"
#include "compressors/sums.h"

namespace tsq {

namespace {

/// The words of the Philox counters (c low, c high, 0, 0), c = 0, 1, ...: word k of all, asked for in ascending order.
class Stream {
 public:
  explicit Stream(uint64_t key) : key_{static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32)} {}

  uint32_t operator[](uint64_t k) {
    if (k / kWords != tile_) kernels::philox_tile(key_, tile_ = k / kWords, 0, &words_);
    return words_.word(k % kWords);
  }

 private:
  static constexpr uint64_t kWords = 4 * kernels::PhiloxTile::kLanes;

  PhiloxKey key_;
  uint64_t tile_ = ~uint64_t{0};
  kernels::PhiloxTile words_;
};

/// floor(random * bound / 2^64), bound <= 2^32.
uint64_t bounded(uint64_t random, uint64_t bound) {
  const uint64_t low = (random & 0xFFFFFFFFu) * bound;
  return ((random >> 32) * bound + (low >> 32)) >> 32;
}

/// Where in its group a rank's element stands; rank < world. UInt: 32 bits do for worlds below 2^31.
template <class UInt>
UInt place(uint32_t word, UInt rank, UInt world) {
  const UInt at = rank + static_cast<UInt>(uint64_t{word} * world >> 32);
  return std::min<UInt>(at, at - world);  // below 0 it wraps around
}

/// The elements of a rank in the groups [first, end), in which `first` is a multiple of the words of a tile.
template <class UInt>
void deal(PhiloxKey key, UInt rank, UInt world, uint64_t first, uint64_t end, uint32_t* out) {
  using kernels::PhiloxTile;
  constexpr size_t kWords = 4 * PhiloxTile::kLanes;
  PhiloxTile tile;
  uint32_t places[4][PhiloxTile::kLanes];
  for (uint64_t begin = first; begin < end; begin += kWords, out += kWords) {
    kernels::philox_tile(key, begin / kWords, 0, &tile);
    for (size_t w = 0; w < 4; ++w)
      for (size_t lane = 0; lane < PhiloxTile::kLanes; ++lane)
        places[w][lane] = static_cast<uint32_t>(place<UInt>(tile.words[w][lane], rank, world));
    const auto base = static_cast<uint32_t>(begin), step = static_cast<uint32_t>(world);
    for (uint32_t k = 0; k < std::min<uint64_t>(kWords, end - begin); ++k)
      out[k] = (base + k) * step + places[k % 4][k / 4];
  }
}

SubsetHead head_of(const uint8_t* in) { return {load<uint64_t>(in), load<uint64_t>(in + 8)}; }

uint64_t count_of(const SubsetHead& head, uint64_t n, bool permuted) {
  if (!permuted || head.word == 0) return head.word;
  return share_size(head.key, n, static_cast<uint32_t>(head.word), static_cast<uint32_t>(head.word >> 32));
}

void draw(const SubsetHead& head, uint64_t n, bool permuted, std::vector<uint32_t>& out) {
  if (head.word == 0) return out.clear();
  if (!permuted) return draw_subset(head.key, n, head.word, out);
  draw_share(head.key, n, static_cast<uint32_t>(head.word), static_cast<uint32_t>(head.word >> 32), out);
}

}  // namespace

void draw_subset(uint64_t key, uint64_t n, uint64_t count, std::vector<uint32_t>& out) {
  const bool complement = count > n / 2;
  const uint64_t draws = complement ? n - count : count;
  thread_local std::vector<uint64_t> set;
  set.assign((n + 63) / 64, complement ? ~uint64_t{0} : 0);
  if (complement && n % 64) set.back() = (uint64_t{1} << n % 64) - 1;
  const auto drawn = [&](uint64_t i) { return (set[i / 64] >> (i % 64) & 1) != complement; };
  Stream stream(key);
  for (uint64_t d = 0; d < draws; ++d) {
    const uint64_t last = n - draws + d, low = stream[2 * d], high = stream[2 * d + 1];
    const uint64_t wanted = bounded(low | high << 32, last + 1);
    const uint64_t i = drawn(wanted) ? last : wanted;
    set[i / 64] ^= uint64_t{1} << i % 64;
  }
  out.resize(count);
  size_t at = 0;
  for (uint64_t w = 0; w < set.size(); ++w)
    for (uint64_t bits = set[w]; bits; bits &= bits - 1)
      out[at++] = static_cast<uint32_t>(64 * w + static_cast<uint64_t>(std::countr_zero(bits)));
}

uint64_t share_size(uint64_t key, uint64_t n, uint32_t rank, uint32_t world) {
  const uint64_t groups = n / world;
  return groups + (place<uint64_t>(Stream(key)[groups], rank, world) < n % world);
}

void draw_share(uint64_t key, uint64_t n, uint32_t rank, uint32_t world, std::vector<uint32_t>& out) {
  out.resize(share_size(key, n, rank, world));
  const PhiloxKey philox{static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32)};
  parallel_for(0, out.size(), size_t{1} << 14, [&](size_t first, size_t end) {
    if (world >> 31)
      deal<uint64_t>(philox, rank, world, first, end, out.data() + first);
    else
      deal<uint32_t>(philox, rank, world, first, end, out.data() + first);
  });
}

wire::Format Subset::format() const {
  return values_.describe({.codec = wire::Codec::kSubset, .variant = permuted_ ? wire::kPermuted : uint8_t{0}});
}

Compressor::Encoded Subset::send(kernels::Form form, ConstView x, void* state, const EncodeKey& key, SubsetHead head,
                                 double scale, MutableBytes out) const {
  if (x.numel >> 32) throw ArgumentError(concat(spec(), ": expected fewer than 2^32 elements, got ", x.numel));
  return with_element(x.dtype, [&](auto element) -> Encoded {
    using S = typename decltype(element)::State;
    thread_local std::vector<S> buffer, sent;  // these are reused: as large as the largest section's
    thread_local std::vector<uint32_t> indices;
    const S* const sums = sums_of(form, x, state, buffer);
    if (!sums || x.numel == 0) {
      const size_t bytes = zero_bytes(x.numel, x.dtype);
      std::fill_n(out.begin(), bytes, uint8_t{0});
      return {bytes, sums != nullptr};
    }
    draw(head, x.numel, permuted_, indices);
    sent.resize(indices.size());
    for (size_t j = 0; j < sent.size(); ++j) sent[j] = saturated<S>(static_cast<double>(sums[indices[j]]) * scale);
    store<uint64_t>(out.data(), head.key);
    store<uint64_t>(out.data() + 8, head.word);
    values_.write(sent.data(), sent.size(), key, x.dtype, out.data() + kSubsetHeadBytes);
    S* const v = static_cast<S*>(state);
    for (size_t j = 0; j < sent.size(); ++j) {
      if (form == kernels::Form::kResidual) v[indices[j]] -= sent[j];
      if (form == kernels::Form::kShifted) v[indices[j]] += sent[j];
    }
    return {kSubsetHeadBytes + values_.bytes(sent.size(), x.dtype), true};
  });
}

void Subset::validate(Bytes in, uint64_t n, DType dtype) const {
  if (n >> 32) throw_wire("numel", "less than 2^32", n);
  if (in.size() < kSubsetHeadBytes) throw_wire("bytes", concat("at least ", kSubsetHeadBytes), in.size());
  const SubsetHead head = head_of(in.data());
  if (head.word == 0) {
    if (std::any_of(in.begin(), in.end(), [](uint8_t byte) { return byte != 0; }))
      throw_wire("payload", "zeros without a coordinate", "others");
    if (in.size() > std::max<uint64_t>(kSubsetHeadBytes + values_.bytes(n, dtype), zero_bytes(n, dtype)))
      throw_wire("bytes", concat("at most those of ", n, " values"), in.size());
    return;
  }
  if (permuted_ && static_cast<uint32_t>(head.word) >= head.word >> 32)
    throw_wire("payload", concat("a rank below the world size ", head.word >> 32), static_cast<uint32_t>(head.word));
  const uint64_t count = count_of(head, n, permuted_);
  if (count > max_count(n)) throw_wire("payload", concat("at most ", max_count(n), " coordinates"), count);
  const Bytes values = in.subspan(kSubsetHeadBytes);
  if (values.size() != values_.bytes(count, dtype))
    throw_wire("bytes", concat(kSubsetHeadBytes, " and those of ", count, " values"), in.size());
  values_.check(values, count, dtype);
}

void Subset::decode_add(Bytes in, DType dtype, double scale, View acc) const {
  const SubsetHead head = head_of(in.data());
  thread_local std::vector<uint32_t> indices;
  thread_local std::vector<float> scratch;
  draw(head, acc.numel, permuted_, indices);
  const void* const values = values_.read(in.data() + kSubsetHeadBytes, indices.size(), scratch);
  const auto add = [&](auto* sums, auto factor) {
    values_.with_type(dtype, [&](auto element) {
      for (size_t j = 0; j < indices.size(); ++j)
        sums[indices[j]] += factor * static_cast<decltype(factor)>(decltype(element)::load(values, j));
    });
  };
  acc.dtype == DType::kFloat64 ? add(acc.as<double>(), scale) : add(acc.as<float>(), static_cast<float>(scale));
}

void Subset::decode_mean(std::span<const Bytes> in, View out) const {
  const bool exact = out.dtype == state_dtype(out.dtype);
  thread_local std::vector<float> narrow;  // the sums of 16-bit elements
  if (!exact) narrow.resize(out.numel);
  const View sums{exact ? out.data : narrow.data(), state_dtype(out.dtype), out.numel};
  if (out.numel) std::memset(sums.data, 0, out.numel * size_of(sums.dtype));
  for (const Bytes& payload : in) decode_add(payload, out.dtype, 1.0, sums);
  with_element(out.dtype, [&](auto element) {
    using E = decltype(element);
    using S = typename E::State;
    const S* const sum = sums.as<S>();
    const S count = static_cast<S>(in.size());
    if (exact && in.size() == 1) return;
    for (size_t i = 0; i < out.numel; ++i) store_saturated<E>(out.data, i, in.size() > 1 ? sum[i] / count : sum[i]);
  });
}

}  // namespace tsq
