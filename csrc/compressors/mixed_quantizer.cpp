#include "compressors/mixed_quantizer.h"

#include <cmath>

#include "common/convert.h"
#include "common/error.h"
#include "common/expression.h"
#include "compressors/quantity.h"
#include "compressors/sums.h"
#include "compressors/sweep.h"

namespace tsq {

namespace {

constexpr size_t kGrain = 64;  // runs that are worth a thread

/// Widths travel as width - 1, two in a byte, the first in the low half.
uint8_t width_at(Bytes in, size_t r) { return (in[r / 2] >> (r % 2 ? 4 : 0)) & 15; }

size_t table_bytes(size_t runs) { return (runs + 1) / 2; }

}  // namespace

MixedQuantizer::MixedQuantizer(double bits, const Quantizer::Config& like, bool contractive)
    : bits_(bits), like_(like) {
  if (!(bits >= 1 && bits <= kMaxWidth)) throw ArgumentError(concat("Quantizer: bits: expected 1 to 8, got ", bits));
  for (int width = 1; width <= kMaxWidth; ++width) {
    Quantizer::Config config = like;
    config.bits = width;
    auto quantizer = std::make_shared<const Quantizer>(config);
    if (contractive) quantizer = std::dynamic_pointer_cast<const Quantizer>(quantizer->as_contractive());
    by_width_[static_cast<size_t>(width - 1)] = std::move(quantizer);
  }
}

std::shared_ptr<const MixedQuantizer> MixedQuantizer::reader_of(const wire::Format& format) {
  wire::Format some = format;
  some.bits = 1;
  return std::make_shared<MixedQuantizer>(1.0, Quantizer::reader_of(some)->config());
}

std::string MixedQuantizer::spec() const {
  std::string text = of_width(1).spec();  // "Quantizer(bits=1" and what follows
  const std::string one = "bits=1";
  return text.replace(text.find(one), one.size(), "bits=" + number_text(bits_));
}

wire::Format MixedQuantizer::format() const {
  wire::Format format = of_width(1).format();
  format.bits = wire::kMixedWidths;
  return format;
}

int MixedQuantizer::least() const { return like_.levels != QuantizerLevels::kFit && bits_ >= 2 ? 2 : 1; }

int MixedQuantizer::tail_width() const { return static_cast<int>(bits_); }

Class MixedQuantizer::class_of(size_t n, uint32_t world_size) const {
  Class worst = of_width(kMaxWidth).class_of(n, world_size);
  for (int width = least(); width < kMaxWidth; ++width) {
    const Class c = of_width(width).class_of(n, world_size);
    worst.omega = worst.omega && c.omega ? std::optional(std::max(*worst.omega, *c.omega)) : std::nullopt;
    worst.alpha = worst.alpha && c.alpha ? std::optional(std::min(*worst.alpha, *c.alpha)) : std::nullopt;
  }
  return worst;
}

CompressorPtr MixedQuantizer::as_contractive() const {
  Quantizer::Config like = like_;
  if (!like.levels) like.levels = like.stochastic.value_or(false) ? QuantizerLevels::kUnbiased : QuantizerLevels::kFit;
  return std::make_shared<MixedQuantizer>(bits_, like, /*contractive=*/true);
}

CompressorPtr MixedQuantizer::as_unbiased() const {
  Quantizer::Config like = like_;
  if (!like.levels) like.levels = QuantizerLevels::kUnbiased;
  return std::make_shared<MixedQuantizer>(bits_, like);
}

size_t MixedQuantizer::max_bytes(size_t n, DType dtype) const {
  const size_t whole = n / run(), tail = n % run();
  const auto total = static_cast<size_t>(std::floor(bits_ * static_cast<double>(whole)));
  const size_t bits_of_run = of_width(2).max_bytes(run(), dtype) - of_width(1).max_bytes(run(), dtype);
  return table_bytes(runs_of(n)) + whole * (of_width(1).max_bytes(run(), dtype) - bits_of_run) + total * bits_of_run +
         of_width(tail_width()).max_bytes(tail, dtype);
}

Capacity MixedQuantizer::capacity(DType dtype) const {
  // Of n elements: half a byte for a run, a scale for a block, `bits` for each; what is not whole, once.
  const size_t unit = Capacity::kUnit, scale = like_.bf16_scales ? 2 : 4;
  const auto slope = std::ceil(static_cast<double>(unit) * bits_ / 8.0);
  return {.slope = static_cast<int64_t>(table_bytes(runs_of(unit)) + scale * (unit / like_.block)) +
                   static_cast<int64_t>(slope),
          .constant = static_cast<int64_t>(1 + scale + of_width(tail_width()).max_bytes(32, dtype))};
}

std::vector<uint8_t> MixedQuantizer::choose(kernels::Form form, ConstView x, const void* state,
                                            const EncodeKey& key) const {
  const size_t whole = x.numel / run();
  const Quantity quantity(form, x, const_cast<void*>(state));
  std::vector<double> weights(whole);
  parallel_for(0, whole, kGrain, [&](size_t begin, size_t end) {
    std::vector<float> z(run());
    for (size_t r = begin; r < end; ++r) {
      quantity.load(r * run(), run(), z.data());
      const double energy = lane_sum(run(), [&](size_t i) { return static_cast<double>(z[i]) * z[i]; });
      weights[r] = r < key.weights.size() ? key.weights[r] * energy : energy;
    }
  });
  const auto total = static_cast<uint64_t>(std::floor(bits_ * static_cast<double>(whole)));
  std::vector<uint8_t> widths = allocate_widths(weights, total, {.curve = curve(), .least = least()});
  if (x.numel % run()) widths.push_back(static_cast<uint8_t>(tail_width()));
  return widths;
}

MixedQuantizer::Runs MixedQuantizer::place(std::vector<uint8_t> widths, size_t n) const {
  Runs runs{std::move(widths), {table_bytes(runs_of(n))}};
  runs.begin.reserve(runs.widths.size() + 1);
  for (size_t r = 0; r < runs.widths.size(); ++r)
    runs.begin.push_back(runs.begin.back() + of_width(runs.widths[r]).max_bytes(length(r, n), DType::kFloat32));
  return runs;
}

Compressor::Encoded MixedQuantizer::run(kernels::Form form, ConstView x, void* state, const EncodeKey& key,
                                        MutableBytes out) const {
  const Runs runs = place(choose(form, x, state, key), x.numel);
  std::fill_n(out.begin(), table_bytes(runs.widths.size()), uint8_t{0});
  for (size_t r = 0; r < runs.widths.size(); ++r)
    out[r / 2] = static_cast<uint8_t>(out[r / 2] | (runs.widths[r] - 1) << (r % 2 ? 4 : 0));
  std::atomic<bool> finite{true};
  parallel_for(0, runs.widths.size(), kGrain, [&](size_t begin, size_t end) {
    for (size_t r = begin; r < end; ++r) {
      const size_t at = r * run();
      const ConstView slice = x.slice(at, length(r, x.numel));
      const View h{state_at(state, x.dtype, at), state_dtype(x.dtype), slice.numel};
      EncodeKey own = key;
      own.offset += at;
      const MutableBytes to = out.subspan(runs.begin[r], runs.begin[r + 1] - runs.begin[r]);
      const Quantizer& q = of_width(runs.widths[r]);
      const Encoded sent = form == kernels::Form::kPlain      ? q.encode(slice, own, to)
                           : form == kernels::Form::kResidual ? q.encode_residual(slice, h, own, to)
                                                              : q.encode_shifted(slice, h, own, to);
      if (!sent.finite) finite.store(false, std::memory_order_relaxed);
    }
  });
  const size_t bytes = max_bytes(x.numel, x.dtype);
  std::fill(out.begin() + static_cast<std::ptrdiff_t>(runs.begin.back()),
            out.begin() + static_cast<std::ptrdiff_t>(bytes), uint8_t{0});
  return {bytes, finite};
}

/// `in` is valid.
MixedQuantizer::Runs MixedQuantizer::read(Bytes in, size_t n) const {
  std::vector<uint8_t> widths(runs_of(n));
  for (size_t r = 0; r < widths.size(); ++r) widths[r] = static_cast<uint8_t>(width_at(in, r) + 1);
  return place(std::move(widths), n);
}

void MixedQuantizer::validate(Bytes in, uint64_t n, DType dtype) const {
  // The first test keeps the formulas of a hostile n from overflowing: an element takes at least one bit.
  if (n > 8 * uint64_t{in.size()} || table_bytes(runs_of(n)) > in.size())
    throw_wire("bytes", concat("those of ", n, " elements of ", spec()), in.size());
  for (size_t r = 0; r < 2 * table_bytes(runs_of(n)); ++r) {
    const int most = r < runs_of(n) ? kMaxWidth - 1 : 0;
    if (width_at(in, r) > most) throw_wire("width", concat("a code of 0 to ", most), int{width_at(in, r)});
  }
  const Runs runs = read(in, n);
  if (runs.begin.back() > in.size()) throw_wire("bytes", concat("at least ", runs.begin.back()), in.size());
  for (size_t r = 0; r < runs.widths.size(); ++r)
    of_width(runs.widths[r])
        .validate(in.subspan(runs.begin[r], runs.begin[r + 1] - runs.begin[r]), length(r, n), dtype);
  const Bytes rest = in.subspan(runs.begin.back());
  if (std::any_of(rest.begin(), rest.end(), [](uint8_t byte) { return byte != 0; }))
    throw_wire("bytes", "zeros behind the last run", "others");
}

void MixedQuantizer::decode_add(Bytes in, DType dtype, double scale, View acc) const {
  const Runs runs = read(in, acc.numel);
  parallel_for(0, runs.widths.size(), kGrain, [&](size_t begin, size_t end) {
    for (size_t r = begin; r < end; ++r)
      of_width(runs.widths[r])
          .decode_add(in.subspan(runs.begin[r], runs.begin[r + 1] - runs.begin[r]), dtype, scale,
                      acc.slice(r * run(), length(r, acc.numel)));
  });
}

void MixedQuantizer::decode_mean(std::span<const Bytes> in, View out) const {
  std::vector<Runs> from;
  for (const Bytes& payload : in) from.push_back(read(payload, out.numel));
  parallel_for(0, runs_of(out.numel), kGrain, [&](size_t begin, size_t end) {
    std::vector<double> memory(run());
    for (size_t r = begin; r < end; ++r) {
      const View to = out.slice(r * run(), length(r, out.numel));
      std::vector<Bytes> parts;
      for (size_t i = 0; i < in.size(); ++i)
        parts.push_back(in[i].subspan(from[i].begin[r], from[i].begin[r + 1] - from[i].begin[r]));
      const bool same =
          std::all_of(from.begin(), from.end(), [&](const Runs& runs) { return runs.widths[r] == from[0].widths[r]; });
      if (same) {
        of_width(from[0].widths[r]).decode_mean(parts, to);
        continue;
      }
      const View sum{memory.data(), state_dtype(out.dtype), to.numel};  // what decode_mean does, in two steps
      std::fill(memory.begin(), memory.end(), 0.0);
      for (size_t i = 0; i < parts.size(); ++i) of_width(from[i].widths[r]).decode_add(parts[i], out.dtype, 1.0, sum);
      with_element(out.dtype, [&](auto element) {
        using E = decltype(element);
        const auto* s = sum.as<typename E::State>();
        const auto count = static_cast<typename E::State>(parts.size());
        for (size_t i = 0; i < to.numel; ++i) E::store(to.data, i, s[i] / count);
      });
    }
  });
}

}  // namespace tsq
