#include "compressors/uniform_step.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "common/convert.h"
#include "common/error.h"
#include "common/expression.h"
#include "compressors/accumulate.h"
#include "compressors/sweep.h"
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
  /// From segment `first` on.
  SegmentReader(Bytes payload, size_t n, size_t first = 0)
      : payload_(payload), n_(n), at_(4 + 4 * segments_of(n)), step_(load<float>(payload.data())) {
    for (size_t s = 0; s < first; ++s) at_ += length_of(s);
  }

  float step() const { return step_; }

  /// Reads segment `index`, each in turn; false if it is all zero. Throws WireError if it is not legal.
  bool next(size_t index, UniformCodes& codes) {
    const size_t length = length_of(index);
    const Bytes segment = payload_.subspan(at_, length);
    at_ += length;
    if (length == 0) return false;
    read_segment(segment, payload_.data() + payload_.size(), segment_numel(n_, index), codes);
    return true;
  }

 private:
  size_t length_of(size_t index) const { return load<uint32_t>(payload_.data() + 4 + 4 * index); }

  Bytes payload_;
  size_t n_, at_;
  float step_;
};

/// Takes back what the payload `sent` did to the state: those of its segments that are `done`, the others are empty.
void undo(kernels::Form form, const UniformStep& codec, Bytes sent, ConstView x, View state,
          const std::vector<uint8_t>& done) {
  if (form == kernels::Form::kPlain) return;
  codec.decode_add(sent, x.dtype, form == kernels::Form::kResidual ? 1.0 : -1.0, state);
  if (form != kernels::Form::kResidual) return;
  with_element(x.dtype, [&](auto element) {
    using E = decltype(element);
    auto* e = state.as<typename E::State>();
    for (size_t i = 0; i < x.numel; ++i)
      if (done[i / kUniformSegment]) e[i] -= E::load(x.data, i);
  });
}

/// The visit of compressors/accumulate.h.
auto visit_segments(std::span<const Bytes> in, size_t n, double scale) {
  return [=](const auto& start, const auto& done) {
    parallel_for(0, segments_of(n), 1, [&](size_t first, size_t end) {
      std::vector<SegmentReader> readers;
      for (const Bytes& payload : in) readers.emplace_back(payload, n, first);
      for (size_t s = first; s < end; ++s) {
        const View sums = start(s * kUniformSegment, segment_numel(n, s));
        for (SegmentReader& reader : readers)
          if (reader.next(s, scratch())) kernels::add_uniform(scratch(), reader.step(), scale, sums);
        done(s * kUniformSegment, sums);
      }
    });
  };
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

std::optional<float> UniformStep::step_of(kernels::Form form, ConstView x, const void* state,
                                          const EncodeKey& key) const {
  if (config_.step) return static_cast<float>(*config_.step);
  const kernels::UniformGrid grid{.stochastic = stochastic(), .key = key.philox};
  return choose_uniform_step(grid, form, x, state, *config_.bits * key.rate);
}

std::optional<float> UniformStep::common_step(ConstView x, const View* residual, const EncodeKey& key) const {
  return step_of(residual ? kernels::Form::kResidual : kernels::Form::kPlain, x, residual ? residual->data : nullptr,
                 key);
}

Compressor::Encoded UniformStep::run(kernels::Form form, ConstView x, void* state, const EncodeKey& key,
                                     MutableBytes out) const {
  kernels::UniformGrid grid{.stochastic = stochastic(), .key = key.philox};
  const auto step = key.step ? key.step : step_of(form, x, state, key);
  const Encoded nothing{zero_bytes(x.numel, x.dtype), step.has_value()};
  std::fill_n(out.begin(), nothing.bytes, uint8_t{0});
  if (!step) return nothing;
  grid.step = *step == 0 ? 1.0f : *step;
  grid.inverse = *step == 0 ? 0.0f : 1.0f / *step;
  const View whole{state, state_dtype(x.dtype), x.numel};
  const size_t segments = segments_of(x.numel);
  std::atomic<bool> finite{true};
  std::vector<uint8_t> done(segments);
  const auto slot = [](size_t s) { return s * max_segment_bytes(kUniformSegment); };
  const size_t bytes = write_bodies(segments, out.data() + nothing.bytes, slot, [&](size_t s, uint8_t* to) -> size_t {
    const size_t begin = s * kUniformSegment, count = segment_numel(x.numel, s);
    void* const part = state != nullptr ? whole.slice(begin, count).data : nullptr;
    UniformCodes& codes = scratch();
    if (!finite) return 0;
    done[s] = kernels::quantize_uniform(grid, form, x.slice(begin, count), part, key.offset + begin, codes);
    if (!done[s]) {
      finite = false;
      return 0;
    }
    const size_t length = write_segment(codes, to);
    store<uint32_t>(out.data() + 4 + 4 * s, static_cast<uint32_t>(length));
    return length;
  });
  if (bytes != 0) store<float>(out.data(), grid.step);
  if (!finite) {
    undo(form, *this, out.first(nothing.bytes + bytes), x, whole, done);
    std::fill_n(out.begin(), nothing.bytes, uint8_t{0});
    return {nothing.bytes, false};
  }
  return {nothing.bytes + bytes, true};
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
  parallel_for(0, segments, 1, [&](size_t first, size_t end) {
    SegmentReader reader(in, n, first);
    for (size_t s = first; s < end; ++s) reader.next(s, scratch());
  });
}

void UniformStep::decode_add(Bytes in, DType, double scale, View acc) const {
  add_parts(acc, visit_segments({&in, 1}, acc.numel, scale));
}

void UniformStep::decode_mean(std::span<const Bytes> in, View out) const {
  mean_parts(in.size(), out, visit_segments(in, out.numel, 1.0));
}

void UniformStep::decode_update(std::span<const Bytes> in, double scale, View acc, View out) const {
  update_parts(acc, out, visit_segments(in, acc.numel, scale));
}

}  // namespace tsq
