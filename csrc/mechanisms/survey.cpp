#include "mechanisms/survey.h"

#include <bit>

#include "common/parallel.h"
#include "kernels/quantizer.h"

namespace tsq {

namespace {

constexpr size_t kShortest = size_t{1} << 16;  // elements: what is shorter is in a cache anyway
constexpr size_t kPiece = 16, kPieces = 512;   // of a sample: neighbours, one cache line; at equal distances
constexpr int kShift = 20;                     // a bucket is eight to a power of two
constexpr size_t kBuckets = (size_t{1} << 31) >> kShift;

}  // namespace

Forecast::Forecast(ConstView x, const View& h, const View& y) : buckets_(kBuckets) {
  with_element(x.dtype, [&](auto element) {
    using E = decltype(element);
    using S = typename E::State;
    const size_t stride = x.numel / kPieces;
    for (size_t begin = 0; begin + kPiece <= x.numel; begin += stride) {
      for (size_t i = begin; i < begin + kPiece; ++i) {
        const S value = E::load(x.data, i);
        const double difference = value - h.as<S>()[i], step = value - y.as<S>()[i];
        Bucket& bucket = buckets_[std::bit_cast<uint32_t>(std::abs(static_cast<float>(difference))) >> kShift];
        ++bucket.count;
        bucket.energy += difference * difference;
        distance_.to_shift += difference * difference;
        distance_.to_previous += step * step;
      }
      sampled_ += kPiece;
    }
  });
}

double Forecast::left(double share) const {
  double wanted = share * static_cast<double>(sampled_), left = distance_.to_shift;
  for (size_t i = buckets_.size(); i-- > 0 && wanted > 0;) {
    const auto count = static_cast<double>(buckets_[i].count);
    if (count == 0) continue;
    left -= buckets_[i].energy * std::min(wanted / count, 1.0);
    wanted -= count;
  }
  return left;
}

bool selects_in_survey(size_t numel) { return num_threads() == 1 && numel >= kShortest && numel >> 32 == 0; }

template <class S>
Survey survey(ConstView x, const View& h, const View& y, size_t largest, Selection<S>* kept) {
  Survey out;
  std::optional<LargestDifferences<S>> differences;
  if (largest > 0) differences.emplace(x, h, largest, *kept);
  out.distance = squared_distances(x, h, y, &out.ordinary, [&](size_t begin, size_t end) {
    if (differences) differences->sweep(begin, end);
  });
  out.selected = differences && differences->finish();
  return out;
}

template <class S>
Survey survey(ConstView x, const View& h, size_t largest, Selection<S>* kept) {
  constexpr size_t kInCache = 4096;
  Survey out;
  LargestDifferences<S> differences(x, h, largest, *kept);
  for (size_t begin = 0; begin < x.numel; begin += kInCache) {
    const size_t end = std::min(x.numel, begin + kInCache);
    out.ordinary = out.ordinary && kernels::all_ordinary(x.slice(begin, end - begin));
    differences.sweep(begin, end);
  }
  out.selected = differences.finish();
  return out;
}

template Survey survey(ConstView, const View&, const View&, size_t, Selection<float>*);
template Survey survey(ConstView, const View&, const View&, size_t, Selection<double>*);
template Survey survey(ConstView, const View&, size_t, Selection<float>*);
template Survey survey(ConstView, const View&, size_t, Selection<double>*);

}  // namespace tsq
