#include "mechanisms/whitened.h"

#include "common/error.h"
#include "mechanisms/diana.h"
#include "mechanisms/direct.h"
#include "mechanisms/vectors.h"

namespace tsq {

namespace {

void check_dtype(DType dtype) {
  if (state_dtype(dtype) != dtype)
    throw ArgumentError(concat("dtype: expected float32 or float64 with a smoothness, got ", name_of(dtype)));
}

}  // namespace

MechanismPtr Direct::with_smoothness(const SmoothnessSet& given) const {
  const CompressorPtr c = compressor().as_unbiased();
  return std::make_shared<WhitenedDirect>(spec(), c, Whitening(c, given, kind_, /*shifts=*/false));
}

MechanismPtr Diana::with_smoothness(const SmoothnessSet& given) const {
  return std::make_shared<WhitenedDiana>(spec(), codec(), alpha_, Whitening(codec(), given, kind_, /*shifts=*/true));
}

bool WhitenedDirect::send(ConstView x, std::span<const View>, const StepKey& key, Parts& out) const {
  check_dtype(x.dtype);
  const Whitening::Side& side = whitening_.of(key.encode.rank);
  const ScratchVector y(x.numel, x.dtype);
  if (!whitening_.whiten(side, x, y.view())) return false;
  const Compressor::Encoded sent = side.compressor->encode(y.view(), key.encode, out.room());
  if (sent.finite) out.add(*side.compressor, sent);
  return sent.finite;
}

void WhitenedDirect::receive(std::span<const Arrived> from, std::span<const View>, const StepKey&, View out) const {
  check_dtype(out.dtype);
  if (any_non_finite(from)) return;
  const ScratchVector sum(out.numel, out.dtype);
  clear(sum.view());
  for (uint32_t rank = 0; rank < from.size(); ++rank) {
    const Whitening::Side& side = whitening_.of(rank);
    if (whitening_.common())
      reader_of(from[rank].sections[0], side.compressor)
          ->decode_add(from[rank].payloads[0], out.dtype, 1.0, sum.view());
    else
      whitening_.add_arrived(side, from[rank], out.dtype, sum.view());
  }
  divide(sum.view(), static_cast<double>(from.size()));
  if (whitening_.common()) whitening_.unwhiten(whitening_.of(0), sum.view(), sum.view());
  assign(out, sum.view());
}

double WhitenedDiana::alpha(const Whitening::Side& side, uint32_t world_size) const {
  return alpha_ ? *alpha_ : 1.0 / (1.0 + *side.compressor->class_of(whitening_.numel(), world_size).omega);
}

bool WhitenedDiana::send(ConstView x, std::span<const View> state, const StepKey& key, Parts& out) const {
  check_dtype(x.dtype);
  const View& h = state[0];
  const Whitening::Side& side = whitening_.of(key.encode.rank);
  const ScratchVector moved(x.numel, h.dtype), sent_values(x.numel, h.dtype);
  assign(moved.view(), h);
  scale(moved.view(), -1.0);
  add(moved.view(), x);
  if (!whitening_.whiten(side, moved.view(), moved.view())) return false;
  const Compressor::Encoded sent = side.compressor->encode(moved.view(), key.encode, out.room());
  if (!sent.finite) return false;
  clear(sent_values.view());
  side.compressor->decode_add(out.room().first(sent.bytes), x.dtype, 1.0, sent_values.view());
  whitening_.unwhiten(side, sent_values.view(), sent_values.view());
  scale(sent_values.view(), alpha(side, key.encode.world_size));
  add(h, sent_values.view());
  out.add(*side.compressor, sent);
  return true;
}

void WhitenedDiana::receive(std::span<const Arrived> from, std::span<const View> state, const StepKey&,
                            View out) const {
  check_dtype(out.dtype);
  const View& h = state[0];
  const auto world = static_cast<uint32_t>(from.size());
  const ScratchVector mean(out.numel, h.dtype), moved(out.numel, h.dtype), one(out.numel, h.dtype);
  clear(mean.view());
  clear(moved.view());
  for (uint32_t rank = 0; rank < world; ++rank) {
    if (from[rank].non_finite()) continue;
    const Whitening::Side& side = whitening_.of(rank);
    clear(one.view());
    whitening_.add_arrived(side, from[rank], out.dtype, one.view());
    add(mean.view(), one.view());
    scale(one.view(), alpha(side, world));
    add(moved.view(), one.view());
  }
  divide(mean.view(), world);
  divide(moved.view(), world);
  if (!any_non_finite(from)) {
    add(mean.view(), h);
    assign(out, mean.view());
  }
  add(h, moved.view());
}

}  // namespace tsq
