#include "mechanisms/estimate.h"

#include <algorithm>
#include <cmath>

#include "common/error.h"
#include "compressors/deliver.h"
#include "mechanisms/section.h"
#include "mechanisms/vectors.h"

namespace tsq {

void EstimateReceiver::receive(std::span<const Arrived> from, std::span<const View> state, const StepKey&,
                               View out) const {
  const View& g = state[0];
  const auto world = static_cast<double>(from.size());
  double marked = 0;
  bool whole = false;
  for (const Arrived& a : from) {
    marked += a.non_finite();
    for (const wire::Section& s : a.sections) whole = whole || s.whole;
  }
  if (!whole && marked == 0 && update_at_once(from, g, out)) return;
  if (whole) scale(g, marked_keep_their_share() ? marked : 0.0);  // in units of sums: divided below
  for (const Arrived& a : from) {
    if (a.non_finite()) continue;
    for (size_t part = 0; part < a.sections.size(); ++part)
      reader_of(a.sections[part], compressor_)->decode_add(a.payloads[part], out.dtype, whole ? 1.0 : 1.0 / world, g);
  }
  if (whole) divide(g, world);
  if (marked == 0) assign(out, g);
}

bool EstimateReceiver::moves_shift() const {
  const auto has = [&](const char* name) { return std::ranges::count(state_names(), name) > 0; };
  return has("shift") && !has("momentum");
}

void EstimateReceiver::check_part(const char* where, const Mechanism& other) const {
  if (!other.moves_shift())
    throw ArgumentError(
        concat(where, ": expected EF21 (no momentum), LAG, CLAG, AdaCGD, ThreePC (variant 2 to 5) or Ada3PC, got ",
               other.spec()));
  if (init_ == Init::kZero && other.starts_dense())
    throw ArgumentError(concat(where, ": expected init='zero' as around it, got ", other.spec()));
}

bool EstimateReceiver::update_at_once(std::span<const Arrived> from, View g, View out) const {
  std::vector<Bytes> payloads;
  const wire::Section* usual = nullptr;
  for (const Arrived& a : from) {
    for (size_t part = 0; part < a.sections.size(); ++part) {
      const wire::Section& section = a.sections[part];
      if (section.format.codec == wire::Codec::kNothing) continue;
      if (usual == nullptr) usual = &section;
      if (section.format != usual->format) return false;
      payloads.push_back(a.payloads[part]);
    }
  }
  if (usual == nullptr)
    deliver(out, g);
  else
    reader_of(*usual, compressor_)->decode_update(payloads, 1.0 / static_cast<double>(from.size()), g, out);
  return true;
}

bool EstimateReceiver::send_whole(ConstView x, const StepKey& key, Parts& out) const {
  const Identity identity;
  out.add(identity.format(), identity.encode(x, key.encode, out.room()).bytes, /*whole=*/true);
  for (size_t part = 1; part < parts(); ++part) out.skip();
  return true;
}

bool EstimateReceiver::send_increment(const Compressor& c, ConstView x, View h, const EncodeKey& key, Parts& out) {
  const Compressor::Encoded sent = c.encode_shifted(x, h, out.keyed(key), out.room());
  if (!sent.finite) return false;
  out.add(c, sent);
  if (c.format().codec == wire::Codec::kRaw && x.dtype == h.dtype) assign(h, x);
  return true;
}

bool EstimateReceiver::passes(ConstView x, std::span<const View> state, const StepKey& key, bool ordinary) const {
  return key.inspected || ordinary || inspect(*this, x, state) == Delivery::kSend;
}

bool EstimateReceiver::send_difference(const Compressor& c, ConstView x, ConstView y, const EncodeKey& key, Parts& out,
                                       View to, double scale) {
  const ScratchVector moved(x.numel, y.dtype);  // what encode_shifted leaves in it is not wanted
  assign(moved.view(), y);
  const Compressor::Encoded sent = c.encode_shifted(x, moved.view(), out.keyed(key), out.room());
  if (!sent.finite) return false;
  if (to.data) c.decode_add(out.room().first(sent.bytes), x.dtype, scale, to);
  out.add(c, sent);
  return true;
}

bool shared_coin(const EncodeKey& key, double p) {
  const uint32_t drawn = philox4x32({UINT32_MAX, UINT32_MAX, 1, 0}, key.shared)[0];
  return static_cast<double>(drawn) * 0x1p-32 < p;
}

EncodeKey second_key(const EncodeKey& key) {
  EncodeKey second = key;
  for (PhiloxKey* k : {&second.philox, &second.shared}) {
    const auto drawn = philox4x32({UINT32_MAX, UINT32_MAX, 2, 0}, *k);
    *k = {drawn[0], drawn[1]};
  }
  return second;
}

double contraction(double alpha) { return 1.0 - std::sqrt(1.0 - alpha); }

}  // namespace tsq
