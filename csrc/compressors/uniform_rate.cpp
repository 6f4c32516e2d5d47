#include "compressors/uniform_rate.h"

#include <algorithm>
#include <array>
#include <bit>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include "common/convert.h"

namespace tsq {

using kernels::UniformCounts;

namespace {

constexpr size_t kChunk = 64;        // neighbours that are sampled together
constexpr size_t kMinChunks = 512;   // all of a vector that has fewer
constexpr size_t kSampledPart = 32;  // of a long vector, one in so many besides
constexpr uint32_t kInf = 0x7F800000u;
constexpr uint32_t kStride = 1u << 19;  // of candidates' bit patterns: 16 an octave
constexpr uint32_t kParts = 16;         // a stride is interpolated in so many
constexpr size_t kRough = 8;            // of the sample, one in so many for a first guess
constexpr uint32_t kOctaves = 14;       // from the largest magnitude down to the smallest candidate

/// log2 of 1 + i / 256 in units of 2^-16, rounded down, by squaring.
struct LogTable {
  uint32_t value[257];
  constexpr LogTable() : value() {
    for (uint32_t i = 0; i < 256; ++i) {
      uint64_t y = uint64_t{256 + i} << 22;  // in [2^30, 2^31)
      for (int bit = 0; bit < 16; ++bit) {
        y = y * y >> 30;
        const bool carry = y >> 31 != 0;
        value[i] = value[i] << 1 | (carry ? 1u : 0u);
        if (carry) y >>= 1;
      }
    }
    value[256] = 1u << 16;
  }
};
constexpr LogTable kLog{};

/// log2(n) in units of 2^-16; n > 0.
uint64_t log2_of(uint32_t n) {
  const int shift = std::countl_zero(n);
  const uint32_t mantissa = n << shift, index = mantissa >> 23 & 255, part = mantissa >> 7 & 0xFFFF;
  const uint32_t low = kLog.value[index], high = kLog.value[index + 1];
  return (uint64_t{31} - static_cast<uint64_t>(shift)) * 65536 + low + ((high - low) * part >> 16);
}

/// What a set of symbols costs at its own entropy, in units of 2^-16 bits; adds to *used how many differ.
uint64_t entropy(const uint32_t* counts, uint64_t* used) {
  uint32_t total = 0;
  uint64_t sum = 0;
  for (size_t s = 0; s < 16; ++s) {
    if (counts[s] == 0) continue;
    total += counts[s];
    sum += counts[s] * log2_of(counts[s]);
    ++*used;
  }
  return total == 0 ? 0 : total * log2_of(total) - sum;
}

/// Predicted length of a segment of m elements in units of 2^-16 bits, from the counts of n of them.
uint64_t segment_bits(const UniformCounts& counts, uint64_t nonzeros, uint64_t n, uint64_t m) {
  constexpr uint64_t kLength = 32;
  if (nonzeros == 0) return kLength << 16;
  uint64_t used = 0;
  const uint64_t symbols = entropy(counts.flags, &used) + entropy(counts.magnitudes, &used);
  const uint64_t escapes = uint64_t{16} * counts.magnitudes[15], signs = nonzeros * m / n;
  const uint64_t lanes = kernels::rans_lanes(m);
  const uint64_t more_signs = signs > 16 * lanes ? signs - 16 * lanes : 0;
  const uint64_t fixed = kLength + 32 + 12 * (used - 2) + 20 * lanes;  // a state's words begin inside it
  const uint64_t bias = ((used - 2) * 47 * (m - n) << 10) / n;         // Miller and Madow: 1 / (2 ln 2) = 47 / 65
  return (symbols + (escapes << 16)) * m / n + bias + ((more_signs + fixed) << 16);
}

/// The sample: what is compressed, in float32, chunk after chunk, and where each segment's part of it ends.
struct Sample {
  struct Part {
    size_t begin, numel;  ///< in `values`
    size_t of;            ///< elements of the segment
  };
  std::vector<float> values;
  std::vector<Part> parts;
  uint64_t elements = 0;  ///< of all segments with a part
  uint32_t largest = 0;   ///< bit pattern of a magnitude
};

template <class E>
float quantity(kernels::Form form, ConstView x, const void* state, size_t i) {
  using S = typename E::State;
  const S v = E::load(x.data, i);
  const S* const s = static_cast<const S*>(state);
  return static_cast<float>(form == kernels::Form::kResidual  ? s[i] + v
                            : form == kernels::Form::kShifted ? v - s[i]
                                                              : v);
}

uint32_t magnitude_of(float v) { return std::bit_cast<uint32_t>(v) & 0x7FFFFFFFu; }

template <class E>
void take_sample(kernels::Form form, ConstView x, const void* state, Sample& sample) {
  const size_t n = x.numel, chunks = (n + kChunk - 1) / kChunk;
  const size_t taken = std::min(chunks, kMinChunks + (chunks + kSampledPart - 1) / kSampledPart);
  sample.values.resize(taken * kChunk);
  sample.parts.clear();
  sample.elements = sample.largest = 0;
  float* to = sample.values.data();
  size_t last_segment = SIZE_MAX;
  for (size_t j = 0; j < taken; ++j) {
    const size_t low = j * chunks / taken, high = (j + 1) * chunks / taken;
    const size_t chunk = low + (static_cast<uint32_t>(j) * 0x9E3779B1u >> 16) % (high - low);
    const size_t begin = chunk * kChunk, count = std::min(kChunk, n - begin),
                 segment = begin / kernels::kUniformSegment;
    if (segment != last_segment) {
      const size_t of = std::min(kernels::kUniformSegment, n - segment * kernels::kUniformSegment);
      sample.parts.push_back({static_cast<size_t>(to - sample.values.data()), 0, of});
      sample.elements += of;
      last_segment = segment;
    }
    for (size_t i = 0; i < count; ++i) to[i] = quantity<E>(form, x, state, begin + i);
    for (size_t i = 0; i < count; ++i) sample.largest = std::max(sample.largest, magnitude_of(to[i]));
    to += count;
    sample.parts.back().numel += count;
  }
}

uint32_t largest_magnitude(kernels::Form form, ConstView x, const void* state) {
  return with_element(x.dtype, [&](auto element) {
    uint32_t largest = 0;
    for (size_t i = 0; i < x.numel; ++i)
      largest = std::max(largest, magnitude_of(quantity<decltype(element)>(form, x, state, i)));
    return largest;
  });
}

/// The largest candidate: 7/4 of the largest magnitude, which is then still sent, or 16 times it.
uint32_t largest_step(uint32_t largest, bool stochastic) {
  const float step = std::bit_cast<float>(largest) * (stochastic ? 16.0f : 1.75f);
  return std::bit_cast<uint32_t>(std::min(step, kMaxUniformStep));
}

/// Searches the candidates; each trial costs a pass over the sample.
class Search {
 public:
  Search(const kernels::UniformGrid& grid, const Sample& sample, uint32_t top, double wanted)
      : grid_(grid), sample_(sample), top_(top), wanted_(wanted) {}

  /// The step between the candidates 0 and `count` - 1 at which the prediction meets what is wanted.
  float run(uint32_t count) {
    const auto [guess, none] = narrow(0, count, kRough);
    static_cast<void>(none);
    // From the guess on with doubled strides, until candidates that fit and do not are known.
    uint32_t fits = guess, above = guess + 1;
    if (guess == 0 || trial(guess, 1) <= wanted_) {
      for (uint32_t stride = 1; above < count && trial(above, 1) <= wanted_; stride *= 2) {
        fits = above;
        above = std::min(count, above + 2 * stride);
      }
    } else {
      above = guess;
      fits = guess - 1;
      for (uint32_t stride = 1; fits > 0 && trial(fits, 1) > wanted_; stride *= 2) {
        above = fits;
        fits -= std::min(fits, 2 * stride);
      }
    }
    std::tie(fits, above) = narrow(fits, above, 1);
    uint32_t part = 0;
    if (above < count && trial(fits, 1) <= wanted_) {
      const double low = trial(fits, 1), high = trial(above, 1);
      part = static_cast<uint32_t>((wanted_ - low) * kParts / (high - low));
    }
    return std::bit_cast<float>(top_ - fits * kStride - std::min(part, kParts - 1) * (kStride / kParts));
  }

 private:
  std::pair<uint32_t, uint32_t> narrow(uint32_t fits, uint32_t above, size_t rough) {
    while (above - fits > 1) {
      const uint32_t middle = (fits + above) / 2;
      (trial(middle, rough) <= wanted_ ? fits : above) = middle;
    }
    return {fits, above};
  }

  /// Predicted length in units of 2^-16 bits, from the first 1 / rough of each part of the sample.
  double trial(uint32_t candidate, size_t rough) {
    if (rough == 1)
      for (const auto& [known, bits] : known_)
        if (known == candidate) return bits;
    grid_.step = std::bit_cast<float>(top_ - candidate * kStride);
    grid_.inverse = 1.0f / grid_.step;
    thread_local const auto codes = std::make_unique<kernels::UniformCodes>();
    uint64_t bits = uint64_t{32} << 16;
    for (const Sample::Part& part : sample_.parts) {
      const size_t n = std::min(part.numel, (part.numel / (kChunk * rough) + 1) * kChunk);
      const ConstView values{sample_.values.data() + part.begin, DType::kFloat32, n};
      kernels::quantize_uniform(grid_, kernels::Form::kPlain, values, nullptr, 0, *codes);
      bits += segment_bits(kernels::count_uniform(*codes), codes->nonzeros, n, part.of);
    }
    if (rough == 1) known_.emplace_back(candidate, static_cast<double>(bits));
    return static_cast<double>(bits);
  }

  kernels::UniformGrid grid_;
  const Sample& sample_;
  uint32_t top_;
  double wanted_;
  std::vector<std::pair<uint32_t, double>> known_;
};

}  // namespace

std::optional<float> choose_uniform_step(kernels::UniformGrid grid, kernels::Form form, ConstView x, const void* state,
                                         double bits) {
  if (x.numel == 0) return 0.0f;
  thread_local Sample sample;
  with_element(x.dtype, [&](auto element) { take_sample<decltype(element)>(form, x, state, sample); });
  const uint32_t smallest = std::bit_cast<uint32_t>(kMinUniformStep);
  // A dithered integer that is clamped would be biased: then the largest element must be known.
  if (grid.stochastic || sample.largest < smallest)
    sample.largest = std::max(sample.largest, largest_magnitude(form, x, state));
  if (sample.largest >= kInf) return std::nullopt;
  if (sample.largest < smallest) return 0.0f;

  // What is fixed would leave nothing for the elements of a short vector.
  const double payload = bits * static_cast<double>(sample.elements);
  const double wanted = 65536.0 * std::max(payload, 256.0 + 0.5 * payload);
  const uint32_t top = largest_step(sample.largest, grid.stochastic);
  const uint32_t bottom = std::max(sample.largest, smallest + (kOctaves << 23)) - (kOctaves << 23);
  return Search(grid, sample, top, wanted).run((top - std::min(bottom, top)) / kStride + 1);
}

}  // namespace tsq
