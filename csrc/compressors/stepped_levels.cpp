#include "compressors/stepped_levels.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <optional>

#include "common/error.h"
#include "common/half.h"
#include "compressors/accumulate.h"
#include "kernels/cpu/block.h"
#include "kernels/dithering.h"
#include "wire/levels.h"

namespace tsq {

namespace {

using kernels::kLanes;
using kernels::kTile;

constexpr double kFaint = 0x1p-96;  // blocks with a smaller step are sent as zeros: it would be next to the denormals
constexpr int kTopLevel = 32767;
static_assert(wire::kLevelSegment % kTile == 0);

/// The largest scale whose largest legal multiple is finite.
float scale_cap(int width) { return static_cast<float>(0x1.FFFFFp127 / wire::top_level(width)); }

/// The smallest bfloat16 number, as a float, that is not below a positive one. Inf beyond the largest.
float bf16_above(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  return std::bit_cast<float>((bits & 0xFFFF ? bits + 0x10000 : bits) & 0xFFFF0000u);
}
float bf16_below(float value) { return std::bit_cast<float>(std::bit_cast<uint32_t>(value) & 0xFFFF0000u); }

double lanes_sum(double* lanes) {
  for (size_t width = kLanes / 2; width > 0; width /= 2)
    for (size_t lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  return lanes[0];
}

/// Reused: as large as the largest section needs.
struct Scratch {
  std::vector<double> steps;
  std::vector<float> inverses, largest, values;
  std::vector<int16_t> levels = std::vector<int16_t>(wire::kLevelSegment);
};
Scratch& scratch() {
  thread_local Scratch mine;
  return mine;
}

}  // namespace

Scaled::Sums Scaled::sums(size_t begin, size_t end) const {
  Sums out;
  float z[kTile];
  uint32_t largest = 0;
  for (; begin < end; begin += kTile) {
    const size_t count = std::min(kTile, end - begin);
    load(begin, count, z);
    double magnitudes[kLanes] = {};
    for (size_t j = 0; j < count; ++j) magnitudes[j % kLanes] += std::abs(static_cast<double>(z[j]));
    out.magnitudes += lanes_sum(magnitudes);
    out.squares += kernels::square_sum(z, count);
    largest = std::max(largest, kernels::largest_magnitude(z, count));
  }
  out.largest = std::bit_cast<float>(largest);
  return out;
}

SteppedLevels::SteppedLevels(const char* name, const SteppedConfig& config, std::optional<Tuning> tuning)
    : name_(name), config_(config), tuning_(std::move(tuning)) {
  config.budget.check(name);
  if (config.blocks < 1 || config.blocks > kMaxBlocks)
    throw ArgumentError(concat(name, ": blocks: expected 1 to ", kMaxBlocks, ", got ", config.blocks));
}

double SteppedLevels::entries(size_t n) const {
  return granted_entries(config_.budget, n, counted(n), static_cast<double>(scale_bytes(n)));
}

void SteppedLevels::check_numel(size_t n) const {
  if (tuning_ && n != tuning_->diagonal.size())
    throw ArgumentError(concat(name_, ": fitted to ", tuning_->diagonal.size(), " elements, got ", n));
  if (n) check_budget(name_, config_.budget, n, counted(n), static_cast<double>(scale_bytes(n)));
}

void SteppedLevels::set_factors(const std::vector<double>& factors) {
  for (const double f : factors) {
    factors_.push_back(static_cast<float>(f));
    inverse_factors_.push_back(factors_.back() > 0 ? static_cast<float>(1 / f) : 0.0f);
  }
}

wire::Format SteppedLevels::format() const {
  return {.codec = wire::Codec::kSteppedLevels,
          .variant = static_cast<uint8_t>(config_.bf16_scales ? wire::kBFloat16Steps : 0),
          .block = config_.blocks};
}

Class SteppedLevels::class_of(size_t n, uint32_t) const {
  const double omega = n ? omega_of(n) : 0.0;
  if (config_.contractive && omega >= 1.0) return {.omega = std::nullopt, .alpha = 1.0 / (1.0 + omega)};
  return {.omega = omega, .alpha = omega < 1.0 ? std::optional(1.0 - omega) : std::nullopt};
}

size_t SteppedLevels::max_bytes(size_t n, DType) const {
  return n ? scale_bytes(n) + 1 + wire::max_level_bytes(n, 16) : 0;
}

size_t SteppedLevels::zero_bytes(size_t n, DType) const {
  return n ? scale_bytes(n) + 1 + 4 * wire::level_segments(n) : 0;
}

double SteppedLevels::expected_bits(size_t n, DType) const {
  return n ? elias_budget_bits(static_cast<double>(n), entries(n), static_cast<double>(scale_bytes(n))) : 0;
}

float SteppedLevels::scale_at(const uint8_t* in, size_t block) const {
  if (!config_.bf16_scales) return load<float>(in + 4 * block);
  return std::bit_cast<float>(uint32_t{load<uint16_t>(in + 2 * block)} << 16);
}

Compressor::Encoded SteppedLevels::run(kernels::Form form, ConstView x, void* state, const EncodeKey& key,
                                       MutableBytes out) const {
  const size_t n = x.numel, count = norms(n), scales = scale_bytes(n);
  if (n == 0) return {0, true};
  check_numel(n);
  const Quantity quantity(form, x, state);
  const Scaled z(quantity, factors_);
  Scratch& mine = scratch();
  const std::vector<size_t> bounds = block_bounds(n, count);
  mine.steps.assign(count, 0);
  mine.inverses.assign(count, 0);
  mine.largest.assign(count, 0);
  find_steps(z, bounds, mine.steps);
  int top = 0;
  for (size_t l = 0; l < count; ++l) {
    const Scaled::Sums sums = z.sums(bounds[l], bounds[l + 1]);
    if (!std::isfinite(sums.squares) || !std::isfinite(mine.steps[l])) {
      std::fill_n(out.begin(), zero_bytes(n, x.dtype), uint8_t{0});
      return {zero_bytes(n, x.dtype), false};
    }
    mine.largest[l] = sums.largest;
    const double step = std::max(mine.steps[l], static_cast<double>(sums.largest) / kTopLevel);
    if (step < kFaint) continue;
    float scale = static_cast<float>(std::min(step, 0x1p127));
    if (config_.bf16_scales) scale = bf16_above(scale);
    mine.steps[l] = scale;
    mine.inverses[l] = 1.0f / scale;
    const float most = std::ceil(sums.largest * mine.inverses[l]);
    top = std::max(top, static_cast<int>(std::min(most, static_cast<float>(kTopLevel))));
  }
  const int width = top ? wire::level_width(static_cast<uint32_t>(top)) : 0;
  const Class c = class_of(n);
  const float shrink = c.omega ? 1.0f : static_cast<float>(*c.alpha);
  for (size_t l = 0; l < count; ++l) {
    float scale = 0;
    if (width != 0 && mine.inverses[l] > 0) {
      const float cap = config_.bf16_scales ? bf16_below(scale_cap(width)) : scale_cap(width);
      scale = std::min(static_cast<float>(mine.steps[l]), cap);
      mine.inverses[l] = 1.0f / scale;
      scale *= shrink;
      if (config_.bf16_scales && shrink != 1.0f) scale = std::min(bf16_above(scale), cap);
    }
    if (config_.bf16_scales)
      store<uint16_t>(out.data() + 2 * l, static_cast<uint16_t>(std::bit_cast<uint32_t>(scale) >> 16));
    else
      store<float>(out.data() + 4 * l, scale);
  }
  out[scales] = static_cast<uint8_t>(width);
  if (width == 0) {
    std::fill_n(out.begin() + static_cast<ptrdiff_t>(scales) + 1, 4 * wire::level_segments(n), uint8_t{0});
    return {zero_bytes(n, x.dtype), true};
  }

  uint8_t* head = out.data() + scales + 1;
  size_t at = scales + 1 + 4 * wire::level_segments(n), block = 0;
  const float ones[kTile / kLanes] = {1, 1, 1, 1, 1, 1, 1, 1};
  mine.values.resize(std::min(n, wire::kLevelSegment));
  for (size_t begin = 0; begin < n; begin += wire::kLevelSegment, head += 4) {
    const size_t end = std::min(n, begin + wire::kLevelSegment);
    for (size_t i = begin; i < end; i += kTile) {
      float t[kTile] = {};
      const size_t m = std::min(kTile, end - i);
      z.load(i, m, t);
      for (size_t j = 0; j < m; ++j) {
        while (bounds[block + 1] <= i + j) ++block;
        t[j] *= mine.inverses[block];
      }
      kernels::dither_levels(kernels::Grid::kUniform, wire::top_level(width), ones, t, key.philox, key.offset + i,
                             mine.levels.data() + (i - begin));
    }
    if (form != kernels::Form::kPlain) {
      segment_values({out.data(), scales}, n, begin, mine.levels.data(), mine.values.data());
      for (size_t i = begin; i < end; i += kTile)
        quantity.update(i, std::min(kTile, end - i), mine.values.data() + (i - begin));
    }
    uint32_t coded = 0;
    at += wire::encode_levels({mine.levels.data(), end - begin}, width, out.data() + at, &coded);
    store<uint32_t>(head, coded);
  }
  return {at, true};
}

void SteppedLevels::segment_values(Bytes in, size_t n, size_t begin, const int16_t* levels, float* values) const {
  const size_t count = std::min(wire::kLevelSegment, n - begin), blocks = norms(n);
  const std::vector<size_t> bounds = block_bounds(n, blocks);
  auto block = static_cast<size_t>(std::upper_bound(bounds.begin(), bounds.end(), begin) - bounds.begin()) - 1;
  for (size_t i = 0; i < count;) {
    const size_t end = std::min(count, bounds[block + 1] - begin);
    const float scale = scale_at(in.data(), block++);
    for (; i < end; ++i) values[i] = static_cast<float>(levels[i]) * scale;
  }
  if (inverse_factors_.empty()) return;
  for (size_t i = 0; i < count; ++i) values[i] *= inverse_factors_[begin + i];
}

void SteppedLevels::validate(Bytes in, uint64_t n, DType) const {
  if (n == 0) {
    if (!in.empty()) throw_wire("bytes", 0, in.size());
    return;
  }
  const size_t scales = scale_bytes(n), count = norms(n);
  if (in.size() < scales + 1) throw_wire("bytes", concat("at least ", scales + 1), in.size());
  const int width = in[scales];
  if (width == 1 || width > 16) throw_wire("payload", "a width of 0 or 2 to 16", width);
  const float cap = width ? scale_cap(width) : 0.0f;
  for (size_t l = 0; l < count; ++l) {
    const float scale = scale_at(in.data(), l);
    if (std::signbit(scale) || !(scale <= cap)) throw_wire("payload", concat("scales from 0 to ", cap), scale);
  }
  const Bytes coded = in.subspan(scales + 1);
  const uint64_t bytes = width ? wire::level_bytes(coded, n, width) : 4 * wire::level_segments(n);
  if (bytes != coded.size()) throw_wire("bytes", concat("those of ", n, " elements"), in.size());
  if (width == 0) {
    if (std::any_of(coded.begin(), coded.end(), [](uint8_t b) { return b != 0; }))
      throw_wire("payload", "heads of 0 with the width 0", "others");
    return;
  }
  const std::vector<size_t> bounds = block_bounds(n, count);
  wire::LevelReader reader(coded, n, width);
  int16_t* const levels = scratch().levels.data();
  size_t block = 0;
  for (uint64_t begin = 0; begin < n; begin += wire::kLevelSegment) {
    if (!reader.next(levels)) throw_wire("payload", "legal levels", "others");
    const size_t length = static_cast<size_t>(std::min<uint64_t>(wire::kLevelSegment, n - begin));
    for (size_t i = 0; i < length; ++i) {
      while (bounds[block + 1] <= begin + i) ++block;
      if (levels[i] != 0 && scale_at(in.data(), block) == 0)
        throw_wire("payload", "no levels in a block with scale 0", "some");
    }
  }
}

auto SteppedLevels::visit(std::span<const Bytes> in, size_t n, double scale) const {
  return [this, in, n, scale](const auto& start, const auto& done) {
    const size_t scales = scale_bytes(n);
    std::vector<std::optional<wire::LevelReader>> readers(in.size());  // none: all elements are zero
    for (size_t m = 0; m < in.size() && n; ++m)
      if (in[m][scales] != 0) readers[m].emplace(in[m].subspan(scales + 1), n, in[m][scales]);
    std::vector<float> values(std::min(n, wire::kLevelSegment));
    for (size_t begin = 0; begin < n; begin += wire::kLevelSegment) {
      const View sums = start(begin, std::min(wire::kLevelSegment, n - begin));
      for (size_t m = 0; m < in.size(); ++m) {
        if (!readers[m]) continue;
        readers[m]->next(scratch().levels.data());
        segment_values(in[m], n, begin, scratch().levels.data(), values.data());
        add_values(values.data(), scale, sums);
      }
      done(begin, sums);
    }
  };
}

void SteppedLevels::decode_add(Bytes in, DType, double scale, View acc) const {
  add_parts(acc, visit({&in, 1}, acc.numel, scale));
}

void SteppedLevels::decode_mean(std::span<const Bytes> in, View out) const {
  mean_parts(in.size(), out, visit(in, out.numel, 1.0));
}

void SteppedLevels::decode_update(std::span<const Bytes> in, double scale, View acc, View out) const {
  update_parts(acc, out, visit(in, acc.numel, scale));
}

}  // namespace tsq
