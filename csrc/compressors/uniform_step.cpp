#include "compressors/uniform_step.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "common/convert.h"
#include "common/error.h"
#include "common/expression.h"
#include "compressors/uniform_rate.h"
#include "compressors/uniform_segment.h"

namespace tsq {

namespace {

using kernels::kUniformSegment;
using kernels::UniformCodes;

uint64_t segments_of(uint64_t n) { return n / kUniformSegment + (n % kUniformSegment != 0 ? 1 : 0); }

size_t segment_numel(size_t n, size_t segment) { return std::min(kUniformSegment, n - segment * kUniformSegment); }

UniformCodes& scratch() {
  thread_local const auto codes = std::make_unique<UniformCodes>();
  return *codes;
}

/// Walks over the segments of a payload.
class SegmentReader {
 public:
  SegmentReader(Bytes payload, size_t n) : payload_(payload), n_(n), step_(load<float>(payload.data())) {
    at_ = 4 + 4 * segments_of(n);
  }

  float step() const { return step_; }

  /// Reads segment `index`, each in turn; false if it is all zero. Throws WireError if it is not legal.
  bool next(size_t index, UniformCodes& codes) {
    const size_t length = load<uint32_t>(payload_.data() + 4 + 4 * index);
    const Bytes segment = payload_.subspan(at_, length);
    at_ += length;
    if (length == 0) return false;
    read_segment(segment, payload_.data() + payload_.size(), segment_numel(n_, index), codes);
    return true;
  }

 private:
  Bytes payload_;
  size_t n_, at_;
  float step_;
};

/// Takes back what the payload `sent` of the elements in x, the first ones, did to the state.
void undo(kernels::Form form, const UniformStep& codec, Bytes sent, ConstView x, View state) {
  if (form == kernels::Form::kPlain) return;
  codec.decode_add(sent, x.dtype, form == kernels::Form::kResidual ? 1.0 : -1.0, state);
  if (form != kernels::Form::kResidual) return;
  with_element(x.dtype, [&](auto element) {
    using E = decltype(element);
    auto* e = state.as<typename E::State>();
    for (size_t i = 0; i < x.numel; ++i) e[i] -= E::load(x.data, i);
  });
}

}  // namespace

UniformStep::UniformStep(const Config& config) : config_(config) {
  if (config.bits.has_value() == config.step.has_value())
    throw ArgumentError(concat("UniformStep: expected one of bits and step, got ", config.bits ? "both" : "none"));
  if (config.bits && !(*config.bits > 0 && *config.bits <= 12))
    throw ArgumentError(concat("UniformStep: bits: expected a number above 0, at most 12, got ", *config.bits));
  const auto step = static_cast<float>(config.step.value_or(1.0));
  if (!(step >= kMinUniformStep && step <= kMaxUniformStep))
    throw ArgumentError(concat("UniformStep: step: expected a number from 2^-126 to 2^112, got ", *config.step));
}

std::string UniformStep::spec() const {
  Value value;
  value.kind = Value::Kind::kFloat;
  value.number = config_.bits ? *config_.bits : *config_.step;
  std::string out = concat("UniformStep(", config_.bits ? "bits=" : "step=", to_string(value));
  if (config_.stochastic) out += *config_.stochastic ? ", rounding='stochastic'" : ", rounding='nearest'";
  return out + ")";
}

Class UniformStep::class_of(size_t n, uint32_t) const {
  if (!config_.bits) return {};
  const double count = static_cast<double>(std::max<size_t>(n, 1));
  if (!stochastic()) return {.omega = std::nullopt, .alpha = 28 / (49 * count + 15)};
  return {.omega = 8 * (1 + std::sqrt(count)) - 1, .alpha = std::nullopt};
}

CompressorPtr UniformStep::resolved(bool stochastic) const {
  Config config = config_;
  if (!config.stochastic) config.stochastic = stochastic;
  return std::make_shared<UniformStep>(config);
}

size_t UniformStep::max_bytes(size_t n, DType dtype) const {
  const size_t whole = n / kUniformSegment, rest = n % kUniformSegment;
  return zero_bytes(n, dtype) + whole * max_segment_bytes(kUniformSegment) + max_segment_bytes(rest);
}

size_t UniformStep::zero_bytes(size_t n, DType) const { return 4 + 4 * segments_of(n); }

double UniformStep::expected_bits(size_t n, DType dtype) const {
  return config_.bits ? *config_.bits * static_cast<double>(n) : 8.0 * static_cast<double>(max_bytes(n, dtype));
}

Compressor::Encoded UniformStep::run(kernels::Form form, ConstView x, void* state, const EncodeKey& key,
                                     MutableBytes out) const {
  kernels::UniformGrid grid{.stochastic = stochastic(), .key = key.philox};
  const auto step = config_.step ? static_cast<float>(*config_.step)
                                 : choose_uniform_step(grid, form, x, state, *config_.bits * key.rate);
  const Encoded nothing{zero_bytes(x.numel, x.dtype), step.has_value()};
  std::fill_n(out.begin(), nothing.bytes, uint8_t{0});
  if (!step) return nothing;
  grid.step = *step == 0 ? 1.0f : *step;
  grid.inverse = *step == 0 ? 0.0f : 1.0f / *step;
  const View whole{state, state_dtype(x.dtype), x.numel};
  const size_t segments = segments_of(x.numel);
  uint8_t* const lengths = out.data() + 4;
  size_t end = nothing.bytes;
  bool any = false;
  UniformCodes& codes = scratch();
  for (size_t s = 0; s < segments; ++s) {
    const size_t begin = s * kUniformSegment, count = segment_numel(x.numel, s);
    void* const part = state != nullptr ? whole.slice(begin, count).data : nullptr;
    if (!kernels::quantize_uniform(grid, form, x.slice(begin, count), part, key.offset + begin, codes)) {
      if (any) store<float>(out.data(), grid.step);
      undo(form, *this, out.first(end), x.slice(0, begin), whole);
      std::fill_n(out.begin(), nothing.bytes, uint8_t{0});
      return {nothing.bytes, false};
    }
    const size_t bytes = write_segment(codes, out.data() + end);
    store<uint32_t>(lengths + 4 * s, static_cast<uint32_t>(bytes));
    end += bytes;
    any = any || bytes != 0;
  }
  if (!any) return nothing;
  store<float>(out.data(), grid.step);
  return {end, true};
}

void UniformStep::validate(Bytes in, uint64_t n, DType) const {
  if (in.size() < 4) throw_wire("bytes", "at least 4", in.size());
  const auto step = load<float>(in.data());
  const bool empty = load<uint32_t>(in.data()) == 0;
  if (!empty && !(step >= kMinUniformStep && step <= kMaxUniformStep))
    throw_wire("payload", "a step of 0 or from 2^-126 to 2^112", step);
  const uint64_t segments = segments_of(n), room = in.size() / 4 - 1;
  if (segments > room) throw_wire("bytes", concat("at least 4 for each of ", segments, " segments"), in.size() - 4);
  uint64_t expected = 4 + 4 * segments;
  for (uint64_t s = 0; s < segments; ++s) expected += load<uint32_t>(in.data() + 4 + 4 * s);
  if (empty && expected != 4 + 4 * segments) throw_wire("payload", "lengths of 0 in an empty section", "others");
  if (expected != in.size()) throw_wire("bytes", expected, in.size());
  SegmentReader reader(in, n);
  for (uint64_t s = 0; s < segments; ++s) reader.next(s, scratch());
}

void UniformStep::decode_add(Bytes in, DType, double scale, View acc) const {
  SegmentReader reader(in, acc.numel);
  for (size_t s = 0; s < segments_of(acc.numel); ++s)
    if (reader.next(s, scratch()))
      kernels::add_uniform(scratch(), reader.step(), scale,
                           acc.slice(s * kUniformSegment, segment_numel(acc.numel, s)));
}

// All messages' parts of one segment, then the next segment: the sums stay in the cache.
void UniformStep::decode_mean(std::span<const Bytes> in, View out) const {
  with_element(out.dtype, [&](auto element) {
    using E = decltype(element);
    using S = typename E::State;
    constexpr bool kExact = std::is_same_v<E, Element<DType::kFloat32>> || std::is_same_v<E, Element<DType::kFloat64>>;
    std::vector<S> sums(kExact ? 0 : std::min(out.numel, kUniformSegment));
    std::vector<SegmentReader> readers;
    for (const Bytes& payload : in) readers.emplace_back(payload, out.numel);
    const S count = static_cast<S>(in.size());
    for (size_t s = 0; s < segments_of(out.numel); ++s) {
      const size_t begin = s * kUniformSegment, length = segment_numel(out.numel, s);
      S* const sum = kExact ? out.as<S>() + begin : sums.data();
      std::fill_n(sum, length, S{0});
      for (SegmentReader& reader : readers)
        if (reader.next(s, scratch()))
          kernels::add_uniform(scratch(), reader.step(), 1.0, {sum, state_dtype(out.dtype), length});
      if (in.size() > 1)
        for (size_t i = 0; i < length; ++i) sum[i] /= count;
      if constexpr (!kExact)
        for (size_t i = 0; i < length; ++i) E::store(out.data, begin + i, sum[i]);
    }
  });
}

}  // namespace tsq
