#include "compressors/bernoulli.h"

#include <algorithm>
#include <cmath>

#include "common/error.h"
#include "common/expression.h"
#include "compressors/random_values.h"
#include "compressors/script.h"
#include "compressors/sums.h"

namespace tsq {

Bernoulli::Bernoulli(const Config& config) : SparseVector(config.values), config_(config), threshold_(0) {
  if (!(config.p > 0 && config.p <= 1))
    throw ArgumentError(concat("Bernoulli: p: expected a number above 0, at most 1, got ", config.p));
  threshold_ = std::max(uint64_t{1}, static_cast<uint64_t>(std::nearbyint(config.p * 0x1p32)));
}

double Bernoulli::probability() const { return static_cast<double>(threshold_) * 0x1p-32; }

uint64_t Bernoulli::max_entries(uint64_t n) const { return entry_bound(expected_entries(n), n); }

std::string Bernoulli::spec() const {
  Value p;
  p.kind = Value::Kind::kFloat;
  p.number = config_.p;
  return "Bernoulli(p=" + to_string(p) + values().spec() + ")";
}

Class Bernoulli::class_of(size_t n, uint32_t) const {
  const double p = probability();
  return random_class(1.0 / p - 1.0, p, config_.scaled, values().class_of(max_entries(n)));
}

std::optional<double> Bernoulli::script_L(const Smoothness& L, size_t n, uint32_t world_size) const {
  if (!config_.scaled || values().quantizer()) return Compressor::script_L(L, n, world_size);
  return largest_of_blocks(L, n, 0, [&](const MetricBlock& all) { return (1 / probability() - 1) * all.largest; });
}

Compressor::Encoded Bernoulli::run(kernels::Form form, ConstView x, void* state, const EncodeKey& key,
                                   MutableBytes out) const {
  check_length("Bernoulli", x.numel);
  return with_element(x.dtype, [&](auto element) -> Encoded {
    using S = typename decltype(element)::State;
    thread_local std::vector<S> buffer;  // these two are reused: as large as the largest section's
    thread_local Selection<S> kept;
    const S* const sums = sums_of(form, x, state, buffer);
    if (!sums) return send_nothing(x, out);
    const double p = config_.scaled ? probability() : 1.0;
    const auto coarse = static_cast<uint32_t>(threshold_ >> 16);
    select_at_most(max_entries(x.numel), x.numel, kept, [&](size_t begin, size_t end, const auto& take) {
      sample(
          key.philox, key.offset, begin, end, [&](size_t) { return coarse; }, [&](size_t) { return threshold_; },
          [&](size_t i) {
            if (sums[i] != 0) take(i, saturated<S>(static_cast<double>(sums[i]) / p));
          });
    });
    return send(form, x, state, key, kept, out);
  });
}

}  // namespace tsq
