// Philox4x32-10 for a vector of consecutive counters. Included once per target.
#if defined(TSQ_KERNELS_CPU_PHILOX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TSQ_KERNELS_CPU_PHILOX_INL_H_
#undef TSQ_KERNELS_CPU_PHILOX_INL_H_
#else
#define TSQ_KERNELS_CPU_PHILOX_INL_H_
#endif

#include "common/philox.h"
#include "hwy/highway.h"
#include "kernels/cpu/block.h"

#if TSQ_HWY_VECTORS
HWY_BEFORE_NAMESPACE();
namespace tsq::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Four counter words of half the lanes, each in the low half of a 64-bit lane. The high halves hold left-overs: the
// widening multiplication does not look at them, and not cleaning them up saves all shuffles.
template <class V>
struct PhiloxState {
  HWY_INLINE PhiloxState() {}  // as that of PhiloxWords
  V c0, c1, c2, c3;

  template <class D32>
  HWY_INLINE void Round(D32 d, uint32_t key_low, uint32_t key_high) {
    const auto product0 = hn::MulEven(c0, hn::Set(d, kPhiloxMultiplier0));
    const auto product1 = hn::MulEven(c2, hn::Set(d, kPhiloxMultiplier1));
    c0 = hn::Xor3(hn::BitCast(d, hn::ShiftRight<32>(product1)), c1, hn::Set(d, key_low));
    c2 = hn::Xor3(hn::BitCast(d, hn::ShiftRight<32>(product0)), c3, hn::Set(d, key_high));
    c1 = hn::BitCast(d, product1);
    c3 = hn::BitCast(d, product0);
  }
};

template <class V>
struct PhiloxWords {
  // Not the compiler's own, which GCC makes outside of the target's options: NEON's vectors could not be inlined in it.
  HWY_INLINE PhiloxWords() {}
  HWY_INLINE void Set(V v0, V v1, V v2, V v3) { w0 = v0, w1 = v1, w2 = v2, w3 = v3; }
  V w0, w1, w2, w3;
};

// lane * multiplier: with it the first round adds instead of multiplying. Even lanes, then odd lanes.
struct LaneProducts {
  alignas(64) uint64_t of[2][16];
  constexpr LaneProducts() : of() {
    for (uint64_t lane = 0; lane < 32; ++lane) of[lane % 2][lane / 2] = lane * kPhiloxMultiplier0;
  }
};
inline constexpr LaneProducts kLaneProducts{};

// Vectors of Philox to run side by side: as many as the registers take.
constexpr size_t PhiloxVectors() { return HWY_MAX_BYTES == 64 ? 2 : 1; }

// The output words for counters counter + lane, counter + lane + 1, ..., kVectors vectors of them. `counter` is a
// multiple of 32 and lane < 32, so that the low 32 bits do not carry. All vectors advance together: a single one would
// wait for its multiplications. `domain` is the counter's third word.
template <size_t kVectors, class D32, class V = hn::Vec<D32>>
HWY_INLINE void Philox(D32 d, uint64_t counter, size_t lane, PhiloxKey key, PhiloxWords<V>* HWY_RESTRICT words,
                       uint32_t domain = 0) {
  const hn::Repartition<uint64_t, D32> d64;
  // The first two rounds by hand: three of the four counter words are common to all lanes, or zero.
  const uint64_t of_domain = uint64_t{domain} * kPhiloxMultiplier1;
  const uint32_t common = static_cast<uint32_t>(of_domain >> 32) ^ static_cast<uint32_t>(counter >> 32) ^ key.low;
  const uint64_t product = uint64_t{common} * kPhiloxMultiplier0;
  const auto first = hn::Set(d64, uint64_t{static_cast<uint32_t>(counter)} * kPhiloxMultiplier0);
  const auto key1_low = hn::Set(d, (key.low + kPhiloxWeyl0) ^ static_cast<uint32_t>(of_domain));
  const auto c2_common = hn::Set(d, static_cast<uint32_t>(product >> 32) ^ (key.high + kPhiloxWeyl1));
  PhiloxState<V> states[2 * kVectors];
  for (size_t i = 0; i < 2 * kVectors; ++i) {
    const size_t at = (lane + i / 2 * hn::Lanes(d)) / 2;
    const auto product0 = hn::Add(first, hn::Load(d64, kLaneProducts.of[i % 2] + at));
    const auto c2 = hn::Xor(hn::BitCast(d, hn::ShiftRight<32>(product0)), hn::Set(d, key.high));
    const auto product1 = hn::MulEven(c2, hn::Set(d, kPhiloxMultiplier1));
    states[i].c0 = hn::Xor(hn::BitCast(d, hn::ShiftRight<32>(product1)), key1_low);
    states[i].c1 = hn::BitCast(d, product1);
    states[i].c2 = hn::Xor(hn::BitCast(d, product0), c2_common);
    states[i].c3 = hn::Set(d, static_cast<uint32_t>(product));
  }
  for (uint32_t round = 2; round < 10; ++round) {
    for (size_t i = 0; i < 2 * kVectors; ++i) {
      states[i].Round(d, key.low + round * kPhiloxWeyl0, key.high + round * kPhiloxWeyl1);
    }
  }
  const auto join = [&](auto odd_word, auto even_word) HWY_ATTR {
    return hn::OddEven(hn::BitCast(d, hn::ShiftLeft<32>(hn::BitCast(d64, odd_word))), even_word);
  };
  for (size_t i = 0; i < kVectors; ++i) {
    const PhiloxState<V>&even = states[2 * i], &odd = states[2 * i + 1];
    words[i].Set(join(odd.c0, even.c0), join(odd.c1, even.c1), join(odd.c2, even.c2), join(odd.c3, even.c3));
  }
}

// f(row, lane, dither) for each vector of a tile's elements: `dither` has their 16 bits each, shifted up by 7, and
// left-overs in other bits. `offset`: of the tile's first element.
template <class D32, class F>
HWY_INLINE void ForEachDither(D32 d, uint64_t offset, PhiloxKey key, const F& f) {
  constexpr size_t kAtOnce = PhiloxVectors();
  PhiloxWords<hn::Vec<D32>> some_words[kAtOnce];
  for (size_t lane = 0, turn = 0; lane < kLanes; lane += hn::Lanes(d), turn = (turn + 1) % kAtOnce) {
    if (turn == 0) Philox<kAtOnce>(d, offset / kTile * kLanes, lane, key, some_words);
    const auto& words = some_words[turn];
    f(0, lane, hn::ShiftLeft<7>(words.w0));
    f(1, lane, hn::ShiftRight<9>(words.w0));
    f(2, lane, hn::ShiftLeft<7>(words.w1));
    f(3, lane, hn::ShiftRight<9>(words.w1));
    f(4, lane, hn::ShiftLeft<7>(words.w2));
    f(5, lane, hn::ShiftRight<9>(words.w2));
    f(6, lane, hn::ShiftLeft<7>(words.w3));
    f(7, lane, hn::ShiftRight<9>(words.w3));
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace tsq::kernels
HWY_AFTER_NAMESPACE();
#endif  // TSQ_HWY_VECTORS
#endif
