#include "mechanisms/whitening.h"

#include <cmath>

#include "common/convert.h"
#include "common/error.h"
#include "mechanisms/vectors.h"

namespace tsq {

namespace {

/// Doubles for the time of a call; reused.
std::vector<double>& pool(size_t which, size_t n) {
  thread_local std::vector<double> mine[2];
  mine[which].resize(n);
  return mine[which];
}

}  // namespace

std::string smoothness_text(const std::string& kind) { return kind.empty() ? "" : ", smoothness='" + kind + "'"; }

Whitening::Whitening(const CompressorPtr& compressor, const SmoothnessSet& given, const std::string& kind, bool shifts)
    : numel_(given.numel) {
  const size_t count = given.of_rank.size();
  if (count != 1 && count != given.world_size)
    throw ArgumentError(concat("smoothness: expected 1 or world_size = ", given.world_size, " of them, got ", count));
  for (const SmoothnessPtr& s : given.of_rank) {
    s->check_numel(numel_);
    if (!kind.empty() && kind != s->kind_name())
      throw ArgumentError(concat("smoothness: expected one of kind '", kind, "', got a ", s->kind_name()));
    const Tuning tuning{s->diagonal(numel_), shifts ? s->mu() * given.world_size : 0.0};
    const CompressorPtr tuned = compressor->tuned(tuning);
    sides_.push_back({s, tuned ? tuned : compressor});
    sides_.back().compressor->check_numel(numel_);
  }
}

bool Whitening::whiten(const Side& side, ConstView v, View y) const {
  if (v.numel != numel_)
    throw ArgumentError(concat("smoothness: of ", numel_, " elements, got a gradient of ", v.numel));
  std::vector<double>&from = pool(0, numel_), &to = pool(1, numel_);
  return with_element(y.dtype, [&](auto element) {
    using S = typename decltype(element)::State;
    for (size_t i = 0; i < numel_; ++i) from[i] = static_cast<double>(v.as<S>()[i]);
    side.smoothness->inverse_root(from.data(), to.data(), numel_);
    bool finite = true;
    for (size_t i = 0; i < numel_; ++i) {
      y.as<S>()[i] = static_cast<S>(to[i]);
      finite = finite && std::isfinite(y.as<S>()[i]);
    }
    return finite;
  });
}

void Whitening::unwhiten(const Side& side, ConstView y, View v) const {
  std::vector<double>&from = pool(0, numel_), &to = pool(1, numel_);
  with_element(v.dtype, [&](auto element) {
    using S = typename decltype(element)::State;
    for (size_t i = 0; i < numel_; ++i) from[i] = static_cast<double>(y.as<S>()[i]);
    side.smoothness->root(from.data(), to.data(), numel_);
    for (size_t i = 0; i < numel_; ++i) v.as<S>()[i] = static_cast<S>(to[i]);
  });
}

void Whitening::add_arrived(const Side& side, const Arrived& from, DType dtype, View sum) const {
  const ScratchVector y(numel_, sum.dtype);
  clear(y.view());
  reader_of(from.sections[0], side.compressor)->decode_add(from.payloads[0], dtype, 1.0, y.view());
  unwhiten(side, y.view(), y.view());
  add(sum, y.view());
}

}  // namespace tsq
