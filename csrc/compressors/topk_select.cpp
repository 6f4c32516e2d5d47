#include "compressors/topk_select.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <functional>
#include <mutex>
#include <numeric>
#include <utility>

#include "common/convert.h"

namespace tsq {

namespace {

constexpr size_t kChunk = 4096;         // elements between two looks at the number of candidates
constexpr size_t kMinSampled = 65536;   // shorter vectors start with every non-zero as a candidate
constexpr size_t kPiece = 16;           // a sample is made of pieces of this many neighbours: one cache line
constexpr size_t kSampledLarge = 512;   // of the `target` largest, about this many are to be in the sample
constexpr size_t kMaxSampledPart = 64;  // never more than this part of the elements

template <class S>
KeyOf<S> key_of(S value) {
  return std::bit_cast<KeyOf<S>>(value) & static_cast<KeyOf<S>>(~KeyOf<S>{0}) >> 1;
}

/// The `target`-th largest key among the candidates, digit after digit from the top; *ties: how many of that key are
/// among the `target` largest. 0 < target <= count.
template <class S>
KeyOf<S> largest_key(const S* value, size_t count, size_t target, size_t* ties) {
  using Key = KeyOf<S>;
  constexpr int kDigit = 11;
  std::array<uint32_t, 1 << kDigit> histogram;
  Key prefix = 0;
  for (int above = 8 * sizeof(Key) - 1; above > 0;) {
    const int shift = std::max(above - kDigit, 0);
    const Key mask = static_cast<Key>((Key{1} << (above - shift)) - 1);
    histogram.fill(0);
    for (size_t j = 0; j < count; ++j) {
      const Key key = key_of(value[j]);
      histogram[key >> shift & mask] += key >> above == prefix;
    }
    size_t digit = mask;
    for (; histogram[digit] < target; --digit) target -= histogram[digit];
    prefix = static_cast<Key>(prefix << (above - shift) | digit);
    above = shift;
  }
  *ties = target;
  return prefix;
}

/// The same. Where a sample of the candidates says about where that key is, only those around it are looked at closely.
template <class S>
KeyOf<S> largest_key(Selection<S>& s, size_t target, size_t* ties) {
  constexpr size_t kSample = 4096;
  const S* const value = s.value.data();
  if (s.count < 8 * kSample) return largest_key(value, s.count, target, ties);
  s.keys.resize(kSample);
  for (size_t j = 0; j < kSample; ++j) s.keys[j] = key_of(value[j * (s.count / kSample)]);
  const double share = static_cast<double>(target) / static_cast<double>(s.count);
  const double rank = share * kSample, margin = 4 * std::sqrt(rank * (1 - share)) + 4;  // four standard deviations
  const auto key_at = [&](double place) {
    const auto nth = s.keys.begin() + static_cast<ptrdiff_t>(place);
    std::nth_element(s.keys.begin(), nth, s.keys.end(), std::greater<>());
    return *nth;
  };
  const KeyOf<S> above = rank > margin ? key_at(rank - margin) : static_cast<KeyOf<S>>(~KeyOf<S>{0});
  const KeyOf<S> from = rank + margin < kSample ? key_at(rank + margin) : KeyOf<S>{0};
  s.near.resize(s.count);
  size_t larger = 0, near = 0;
  for (size_t j = 0; j < s.count; ++j) {
    const KeyOf<S> key = key_of(value[j]);
    s.near[near] = value[j];
    larger += key >= above;
    near += (key >= from) & (key < above);
  }
  if (larger >= target || larger + near < target) return largest_key(value, s.count, target, ties);
  return largest_key(s.near.data(), near, target - larger, ties);
}

/// Keeps the candidates for which keep(key) is true, in order.
template <class S, class Keep>
void compact(Selection<S>& s, const Keep& keep) {
  uint32_t* const index = s.index.data();
  S* const value = s.value.data();
  size_t kept = 0;
  for (size_t j = 0; j < s.count; ++j) {
    const S v = value[j];
    index[kept] = index[j];
    value[kept] = v;
    kept += keep(key_of(v));
  }
  s.count = kept;
}

/// Keeps the `target` largest of the candidates, in order; returns the smallest key among them. count > target > 0.
template <class S>
KeyOf<S> trim(Selection<S>& s, size_t target) {
  size_t ties = 0;
  const KeyOf<S> smallest = largest_key(s, target, &ties);
  compact(s, [=](KeyOf<S> key) { return key >= smallest; });
  if (s.count > target)  // few vectors have so many ties
    compact(s, [&](KeyOf<S> key) { return key > smallest || (ties > 0 && ties-- > 0); });
  return smallest;
}

void undo_residual(ConstView x, void* state, size_t first, size_t end) {
  with_element(x.dtype, [&](auto element) {
    using E = decltype(element);
    auto* e = static_cast<typename E::State*>(state);
    for (size_t i = first; i < end; ++i) e[i] -= E::load(x.data, i);
  });
}

/// A guess, from a sample, of a key that somewhat more than `target` elements reach; 1 if that is not worth while.
template <class S>
KeyOf<S> guessed_floor(kernels::Form form, ConstView x, const void* state, size_t target, Selection<S>& s) {
  if (x.numel < kMinSampled || target > x.numel / 2) return 1;
  const double share = static_cast<double>(target) / static_cast<double>(x.numel);
  const size_t pieces = std::min(static_cast<size_t>(kSampledLarge / share), x.numel / kMaxSampledPart) / kPiece;
  const size_t stride = x.numel / std::max(pieces, size_t{64});
  s.keys.clear();
  with_element(x.dtype, [&](auto element) {
    using E = decltype(element);
    if constexpr (std::is_same_v<typename E::State, S>) {
      const S* v = static_cast<const S*>(state);
      for (size_t begin = 0; begin + kPiece <= x.numel; begin += stride) {
        for (size_t i = begin; i < begin + kPiece; ++i) {
          const S element_i = E::load(x.data, i);
          s.keys.push_back(key_of(form == kernels::Form::kPlain      ? element_i
                                  : form == kernels::Form::kResidual ? v[i] + element_i
                                                                     : element_i - v[i]));
        }
      }
    }
  });
  const double large = share * static_cast<double>(s.keys.size());
  const auto rank = static_cast<size_t>(large + 4 * std::sqrt(large) + 8);  // four standard deviations more
  if (rank >= s.keys.size()) return 1;
  std::nth_element(s.keys.begin(), s.keys.begin() + static_cast<ptrdiff_t>(rank), s.keys.end(), std::greater<>());
  return std::max<KeyOf<S>>(s.keys[rank], 1);
}

/// More candidates than this, of `numel` elements, are trimmed.
size_t most_candidates(size_t target, size_t numel) { return std::min(numel, 2 * target + kChunk); }

/// An empty selection with room for the candidates.
template <class S>
void make_room(Selection<S>& s, size_t target, size_t numel) {
  s.count = 0;
  const size_t capacity = most_candidates(target, numel) + kChunk + kernels::kTopKSlack;
  if (s.index.size() >= capacity) return;
  s.index.resize(capacity);
  s.value.resize(capacity);
}

/// Appends those of the elements [begin, end) whose key is at least *floor, which rises when there are more than
/// `limit` of them. Returns where it stopped: `end`, or the first element that is not finite.
template <class S>
size_t append(kernels::Form form, ConstView x, void* state, size_t target, size_t limit, size_t begin, size_t end,
              Selection<S>& s, KeyOf<S>* floor) {
  while (begin < end) {
    const size_t to = std::min(end, begin + kChunk);
    begin = kernels::topk_sweep(form, x, state, begin, to, *floor, s.index.data(), s.value.data(), &s.count);
    if (begin < to) break;
    if (s.count > limit) *floor = trim(s, target) + 1;
  }
  return begin;
}

/// The `target` largest of the elements [first, end) whose key is at least `floor`; returns where it stopped, `end` if
/// all of them are finite.
template <class S>
size_t collect(kernels::Form form, ConstView x, void* state, size_t target, KeyOf<S> floor, size_t first, size_t end,
               Selection<S>& s) {
  make_room(s, target, end - first);
  const size_t limit = most_candidates(target, end - first);
  const size_t done = append(form, x, state, target, limit, first, end, s, &floor);
  if (done == end && s.count > target) trim(s, target);
  return done;
}

/// The same of all elements. False if one is not finite: then the state is as it was (kResidual: to rounding).
template <class S>
bool collect(kernels::Form form, ConstView x, void* state, size_t target, KeyOf<S> floor, Selection<S>& s) {
  std::mutex mutex;
  std::vector<std::pair<size_t, size_t>> swept;
  const bool finite = select_in_pieces(x.numel, s, [&](size_t first, size_t end, Selection<S>& part) {
    const size_t done = collect(form, x, state, target, floor, first, end, part);
    const std::lock_guard lock(mutex);
    swept.emplace_back(first, done);
    return done == end;
  });
  if (!finite && form == kernels::Form::kResidual)
    for (const auto& [first, done] : swept) undo_residual(x, state, first, done);
  if (finite && s.count > target) trim(s, target);
  return finite;
}

}  // namespace

// Candidates are collected until there are about twice as many as wanted and then trimmed. Whatever comes after
// `target` candidates of key >= k must be larger than k to be sent (ties go to the lower index), so that the bar only
// rises: the result is exact, and a trim, which costs O(target), happens at most once per `target` candidates. A guess
// of the bar saves most candidates and trims; if it was too high, the sweep is made again without it.
template <class S>
bool select_largest(kernels::Form form, ConstView x, void* state, size_t target, Selection<S>& s) {
  const KeyOf<S> floor = guessed_floor(form, x, state, target, s);
  if (!collect(form, x, state, target, floor, s)) return false;
  if (s.count >= target || floor == 1) return true;
  if (form != kernels::Form::kResidual) return collect(form, x, state, target, KeyOf<S>{1}, s);
  const ConstView sums{state, state_dtype(x.dtype), x.numel};  // e is e + x already
  return collect(kernels::Form::kPlain, sums, nullptr, target, KeyOf<S>{1}, s);
}

template <class S>
LargestDifferences<S>::LargestDifferences(ConstView x, const View& h, size_t target, Selection<S>& selection)
    : x_(x),
      h_(h),
      target_(target),
      selection_(selection),
      floor_(guessed_floor(kernels::Form::kShifted, x, h.data, target, selection)),
      bar_(floor_) {
  make_room(selection, target, x.numel);
}

template <class S>
void LargestDifferences<S>::sweep(size_t begin, size_t end) {
  if (!finite_) return;
  const size_t limit = most_candidates(target_, x_.numel);
  finite_ = append(kernels::Form::kShifted, x_, h_.data, target_, limit, begin, end, selection_, &bar_) == end;
}

template <class S>
bool LargestDifferences<S>::finish() {
  if (!finite_) return false;
  if (selection_.count < target_ && floor_ > 1)
    return collect(kernels::Form::kShifted, x_, h_.data, target_, KeyOf<S>{1}, selection_);
  keep_largest(selection_, target_);
  return true;
}

// Whatever t is: those of magnitude t or more, and t^2 for each that is missing. A sample makes t fit.
template <class S>
double largest_energy_bound(const Selection<S>& s, size_t target) {
  constexpr size_t kSample = 512;
  KeyOf<S> bar = 0;
  if (target < s.count) {
    std::vector<KeyOf<S>> sample;
    for (size_t j = 0; j < s.count; j += s.count / kSample + 1) sample.push_back(key_of(s.value[j]));
    const auto nth = sample.begin() + static_cast<ptrdiff_t>(target * sample.size() / s.count);
    std::nth_element(sample.begin(), nth, sample.end(), std::greater<>());
    bar = *nth;
  }
  const S t = std::bit_cast<S>(bar);
  constexpr size_t kLanes = 8;
  double sums[kLanes] = {}, counts[kLanes] = {};
  const auto take = [&](S entry, size_t lane) {
    const S magnitude = std::abs(entry);
    const double value = magnitude >= t ? static_cast<double>(magnitude) : 0.0;
    sums[lane] += value * value;
    counts[lane] += magnitude >= t ? 1.0 : 0.0;
  };
  size_t j = 0;
  for (; j + kLanes <= s.count; j += kLanes)
    for (size_t lane = 0; lane < kLanes; ++lane) take(s.value[j + lane], lane);
  for (; j < s.count; ++j) take(s.value[j], 0);
  const double energy = std::accumulate(sums, sums + kLanes, 0.0);
  const double missing = static_cast<double>(target) - std::accumulate(counts, counts + kLanes, 0.0);
  return energy + std::max(missing, 0.0) * static_cast<double>(t) * static_cast<double>(t);
}

template <class S>
void keep_largest(Selection<S>& selection, size_t target) {
  if (selection.count > target) trim(selection, target);
}

template class LargestDifferences<float>;
template class LargestDifferences<double>;
template double largest_energy_bound(const Selection<float>&, size_t);
template double largest_energy_bound(const Selection<double>&, size_t);
template void keep_largest(Selection<float>&, size_t);
template void keep_largest(Selection<double>&, size_t);
template bool select_largest(kernels::Form, ConstView, void*, size_t, Selection<float>&);
template bool select_largest(kernels::Form, ConstView, void*, size_t, Selection<double>&);

}  // namespace tsq
