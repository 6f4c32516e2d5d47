#include "compressors/dithering.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "common/error.h"
#include "compressors/accumulate.h"
#include "compressors/quantity.h"
#include "compressors/sweep.h"
#include "kernels/cpu/block.h"
#include "wire/levels.h"

namespace tsq {

namespace {

using kernels::kLanes;
using kernels::kTile;

constexpr double kFaint = 0x1p-96;  // a block with a smaller norm is sent as zeros: its unit would be a denormal
constexpr size_t kRows = kTile / kLanes;
static_assert(wire::kLevelSegment % kTile == 0);

/// The largest unit whose largest legal multiple is finite.
float unit_cap(kernels::Grid grid, int width) {
  return static_cast<float>(0x1.FFFFFp127 / kernels::units_of_top(grid, wire::top_level(width)));
}

/// What the norms are made of: of each piece of `step` elements, which lies within a tile, the sum of squares or the
/// largest magnitude.
std::vector<double>& measure(Norm norm, const Quantity& quantity, size_t n, size_t step) {
  thread_local std::vector<double> measures;  // reused: as large as the largest section's
  measures.resize((n + step - 1) / step);
  double* const out = measures.data();
  sweep(n, [&](size_t first, size_t numel) {
    float z[kTile];
    for (size_t begin = first, end = first + numel; begin < end; begin += step) {
      const size_t count = std::min(step, end - begin);
      quantity.load(begin, count, z);
      out[begin / step] = norm == Norm::kTwo
                              ? kernels::square_sum(z, count)
                              : static_cast<double>(std::bit_cast<float>(kernels::largest_magnitude(z, count)));
    }
  });
  return measures;
}

/// The norm of elements with these measures; infinite or NaN if an element is. One after the other: the order counts.
double norm_of(Norm norm, std::span<const double> measures) {
  double total = 0;
  for (const double m : measures) {
    if (norm == Norm::kTwo)
      total += m;
    else if (!(total >= m) && !std::isnan(total))
      total = m;
  }
  return norm == Norm::kTwo ? std::sqrt(total) : total;
}

/// Room for the levels of a segment.
std::vector<int16_t>& scratch() {
  thread_local std::vector<int16_t> levels(wire::kLevelSegment);
  return levels;
}

}  // namespace

DitheredLevels::DitheredLevels(const char* name, kernels::Grid grid, int max_levels, const DitheringConfig& config)
    : name_(name), grid_(grid), config_(config) {
  if (config.levels < 1 || config.levels > max_levels)
    throw ArgumentError(concat(name, ": levels: expected 1 to ", max_levels, ", got ", config.levels));
  if (config.block != 0 && (config.block < 32 || config.block > 65536 || !std::has_single_bit(config.block)))
    throw ArgumentError(concat(name, ": block: expected None or a power of two from 32 to 65536, got ", config.block));
}

std::string DitheredLevels::spec() const {
  std::string out = concat(name_, "(levels=", config_.levels);
  if (config_.norm == Norm::kMax) out += ", norm='inf'";
  if (config_.block) out += concat(", block=", config_.block);
  return out + ")";
}

wire::Format DitheredLevels::format() const {
  const bool uniform = grid_ == kernels::Grid::kUniform;
  return {.codec = uniform ? wire::Codec::kDithering : wire::Codec::kNaturalDithering,
          .bits = static_cast<uint8_t>(wire::level_width(static_cast<uint32_t>(config_.levels))),
          .block = config_.block};
}

Class DitheredLevels::class_of(size_t n, uint32_t) const {
  const double d = static_cast<double>(std::max<size_t>(config_.block ? std::min<size_t>(config_.block, n) : n, 1));
  const double omega = omega_of(d);
  if (config_.contractive && omega >= 1.0) return {.omega = std::nullopt, .alpha = 1.0 / (1.0 + omega)};
  return {.omega = omega, .alpha = omega < 1.0 ? std::optional(1.0 - omega) : std::nullopt};
}

std::optional<double> DitheredLevels::script_L(const Smoothness& L, size_t n, uint32_t) const {
  L.check_numel(n);
  if (!class_of(n).omega) return std::nullopt;
  return largest_of_blocks(L, n, config_.block, [&](const MetricBlock& block) { return script_of(block); });
}

DitheringConfig DitheredLevels::config_for(bool contractive) const {
  DitheringConfig config = config_;
  config.contractive = contractive;
  return config;
}

float DitheredLevels::shrink(size_t n) const {
  const Class c = class_of(n);
  return c.omega ? 1.0f : static_cast<float>(*c.alpha);
}

size_t DitheredLevels::blocks(size_t n) const {
  if (config_.block == 0) return n > 0;
  return n / config_.block + (n % config_.block != 0);
}

size_t DitheredLevels::max_bytes(size_t n, DType) const {
  return 4 * blocks(n) + wire::max_level_bytes(n, format().bits);
}

size_t DitheredLevels::zero_bytes(size_t n, DType) const { return 4 * (blocks(n) + wire::level_segments(n)); }

double DitheredLevels::expected_bits(size_t n, DType dtype) const {
  if (n == 0) return 0;
  const double count = static_cast<double>(n), top = kernels::units_of_top(grid_, config_.levels);
  const double d = config_.block ? std::min(static_cast<double>(config_.block), count) : count;
  // Gaussian elements: E|x| sqrt(d) / |x|_2 = sqrt(2/pi); the largest is about sqrt(2 log d) times their deviation.
  const double peak = config_.norm == Norm::kTwo ? std::sqrt(d) : std::max(1.0, std::sqrt(2.0 * std::log(d)));
  const double units = 0.8 * top / peak;  // E|level|, in units
  const double filled = std::min(1.0, units);
  const double level = grid_ == kernels::Grid::kUniform ? units : 1.0 + std::log2(std::max(units, 1.0));
  const auto length = [](double k) {
    return wire::elias_length(static_cast<uint32_t>(std::max(1.0, std::min(k, 4e9))));
  };
  const double each = length(1.0 / std::max(filled, 1e-9)) + 1.0 + length(level / filled);
  const double elias = 32.0 * static_cast<double>(blocks(n) + wire::level_segments(n)) + count * filled * each;
  return std::min(elias, 8.0 * static_cast<double>(max_bytes(n, dtype)));
}

Compressor::Encoded DitheredLevels::run(kernels::Form form, ConstView x, void* state, const EncodeKey& key,
                                        MutableBytes out) const {
  const size_t n = x.numel, block = config_.block ? config_.block : n, count = blocks(n);
  const int width = format().bits;
  const double top = kernels::units_of_top(grid_, config_.levels);
  const float cap = unit_cap(grid_, width), factor = shrink(n);
  const Quantity quantity(form, x, state);
  thread_local std::vector<float> reused;
  reused.resize(count);
  float* const inverses = reused.data();
  const size_t step = std::min(kTile, std::max<size_t>(block, 1)), pieces = (block + step - 1) / step;
  const std::span<const double> measures = measure(config_.norm, quantity, n, step);
  for (size_t b = 0; b < count; ++b) {
    const size_t from = b * pieces;
    const double norm = norm_of(config_.norm, measures.subspan(from, std::min(pieces, measures.size() - from)));
    if (!std::isfinite(norm)) {
      std::fill_n(out.begin(), zero_bytes(n, x.dtype), uint8_t{0});
      return {zero_bytes(n, x.dtype), false};
    }
    const bool faint = norm < kFaint;
    inverses[b] = faint ? 0.0f : static_cast<float>(top / norm);
    const auto unit = static_cast<float>(std::min(norm / top, static_cast<double>(cap)));
    store<float>(out.data() + 4 * b, faint ? 0.0f : unit * factor);
  }

  const size_t heads = 4 * count, bodies = heads + 4 * wire::level_segments(n);
  const auto slot = [&](size_t s) { return wire::packed_bytes(s * wire::kLevelSegment, width); };
  return {bodies + write_bodies(wire::level_segments(n), out.data() + bodies, slot,
                                [&](size_t s, uint8_t* to) {
                                  const size_t begin = s * wire::kLevelSegment,
                                               end = std::min(n, begin + wire::kLevelSegment);
                                  int16_t* const segment = scratch().data();
                                  for (size_t i = begin; i < end; i += kTile) {
                                    float z[kTile] = {}, inverse[kRows], unit[kRows];
                                    const size_t m = std::min(kTile, end - i);
                                    for (size_t row = 0; row < kRows; ++row) {
                                      const size_t b = std::min(i + row * kLanes, n - 1) / block;
                                      inverse[row] = inverses[b];
                                    }
                                    quantity.load(i, m, z);
                                    int16_t* const levels = segment + (i - begin);
                                    kernels::dither_levels(grid_, config_.levels, inverse, z, key.philox,
                                                           key.offset + i, levels);
                                    if (form == kernels::Form::kPlain) continue;
                                    units(out.data(), n, i, unit);
                                    kernels::level_values(grid_, unit, levels, m, z);
                                    quantity.update(i, m, z);
                                  }
                                  uint32_t coded = 0;
                                  const size_t bytes = wire::encode_levels({segment, end - begin}, width, to, &coded);
                                  store<uint32_t>(out.data() + heads + 4 * s, coded);
                                  return bytes;
                                }),
          true};
}

void DitheredLevels::units(const uint8_t* scales, size_t n, size_t begin, float* rows) const {
  for (size_t row = 0; row < kRows; ++row) {
    const size_t i = std::min(begin + row * kLanes, n - 1);
    rows[row] = load<float>(scales + 4 * (config_.block ? i / config_.block : 0));
  }
}

void DitheredLevels::segment_values(Bytes in, size_t n, size_t begin, const int16_t* levels, float* values) const {
  const size_t count = std::min(wire::kLevelSegment, n - begin);
  for (size_t i = 0; i < count; i += kTile) {
    float unit[kRows];
    units(in.data(), n, begin + i, unit);
    kernels::level_values(grid_, unit, levels + i, std::min(kTile, count - i), values + i);
  }
}

void DitheredLevels::validate(Bytes in, uint64_t n, DType) const {
  const int width = format().bits;
  const uint64_t scales = blocks(n);
  if (scales > in.size() / 4) throw_wire("bytes", concat("at least ", scales, " scales"), in.size());
  const Bytes coded = in.subspan(4 * scales);
  const uint64_t bytes = wire::level_bytes(coded, n, width);
  if (bytes != coded.size()) throw_wire("bytes", concat("those of ", n, " elements of ", spec()), in.size());
  const float cap = unit_cap(grid_, width);
  for (uint64_t b = 0; b < scales; ++b) {
    const float unit = load<float>(in.data() + 4 * b);
    if (std::signbit(unit) || !(unit <= cap)) throw_wire("payload", concat("scales from 0 to ", cap), unit);
  }
  sweep(n, [&](size_t first, size_t numel) {
    wire::LevelReader reader(coded, n, width);
    reader.skip(first / wire::kLevelSegment);
    int16_t* const levels = scratch().data();
    for (size_t begin = first, last = first + numel; begin < last; begin += wire::kLevelSegment) {
      if (!reader.next(levels)) throw_wire("payload", "legal levels", "others");
      const size_t count = std::min(wire::kLevelSegment, last - begin);
      for (size_t i = 0; i < count; i += kLanes) {
        const size_t b = config_.block ? (begin + i) / config_.block : 0;
        if (load<float>(in.data() + 4 * b) != 0.0f) continue;
        if (std::any_of(levels + i, levels + std::min(count, i + kLanes), [](int16_t level) { return level != 0; }))
          throw_wire("payload", "no levels in a block with scale 0", "some");
      }
    }
  });
}

/// The visit of compressors/accumulate.h. A segment's levels of one message, then of the next.
auto DitheredLevels::visit(std::span<const Bytes> in, size_t n, double scale) const {
  return [=, this](const auto& start, const auto& done) {
    sweep(n, [&](size_t first, size_t numel) {
      std::vector<wire::LevelReader> readers;
      for (const Bytes& payload : in) {
        readers.emplace_back(payload.subspan(4 * blocks(n)), n, format().bits);
        readers.back().skip(first / wire::kLevelSegment);
      }
      std::vector<float> values(std::min(numel, wire::kLevelSegment));
      for (size_t begin = first, end = first + numel; begin < end; begin += wire::kLevelSegment) {
        const View sums = start(begin, std::min(wire::kLevelSegment, end - begin));
        for (size_t m = 0; m < in.size(); ++m) {
          readers[m].next(scratch().data());
          segment_values(in[m], n, begin, scratch().data(), values.data());
          add_values(values.data(), scale, sums);
        }
        done(begin, sums);
      }
    });
  };
}

void DitheredLevels::decode_add(Bytes in, DType, double scale, View acc) const {
  add_parts(acc, visit({&in, 1}, acc.numel, scale));
}

void DitheredLevels::decode_mean(std::span<const Bytes> in, View out) const {
  mean_parts(in.size(), out, visit(in, out.numel, 1.0));
}

void DitheredLevels::decode_update(std::span<const Bytes> in, double scale, View acc, View out) const {
  update_parts(acc, out, visit(in, acc.numel, scale));
}

double Dithering::omega_of(double d) const {
  const double s = config().levels;
  if (config().norm == Norm::kMax) return 0.5 * (std::sqrt(1.0 + (d - 1.0) / (s * s)) - 1.0);
  if (d <= 1.0) return 0.0;  // the element is its norm
  const double root = std::sqrt(d);
  return s <= root / 2.0 ? root / s - 1.0 : d / (4.0 * s * s);
}

double Dithering::script_of(const MetricBlock& block) const {  // the largest magnitude is no more than the 2-norm
  return std::min(dithering_script(block, 1.0 / config().levels), omega_of(block.count) * block.largest);
}

CompressorPtr Dithering::as_contractive() const { return std::make_shared<Dithering>(config_for(true)); }

CompressorPtr Dithering::as_unbiased() const { return std::make_shared<Dithering>(config_for(false)); }

double NaturalDithering::omega_of(double d) const {
  const double g = std::ldexp(std::sqrt(d), 1 - config().levels);
  return d <= 1.0 ? 0.0 : 1.0 / 8 + g * std::min(1.0, g);
}

double NaturalDithering::script_of(const MetricBlock& block) const {
  const double smallest = std::ldexp(1.0, 1 - config().levels);
  return std::min(block.largest / 8 + smallest * std::sqrt(block.squares), omega_of(block.count) * block.largest);
}

CompressorPtr NaturalDithering::as_contractive() const { return std::make_shared<NaturalDithering>(config_for(true)); }

CompressorPtr NaturalDithering::as_unbiased() const { return std::make_shared<NaturalDithering>(config_for(false)); }

}  // namespace tsq
