#include "mechanisms/stateless.h"

#include <algorithm>

#include "mechanisms/vectors.h"

namespace tsq {

void StatelessReceiver::receive(std::span<const Arrived> from, std::span<const View>, const StepKey&, View out) const {
  if (any_non_finite(from)) return;
  std::vector<Bytes> payloads;
  payloads.reserve(from.size());
  for (const Arrived& a : from) payloads.push_back(a.payloads[0]);
  const bool usual = std::all_of(from.begin(), from.end(),
                                 [&](const Arrived& a) { return a.sections[0].format == compressor_->format(); });
  if (usual) return compressor_->decode_mean(payloads, out);
  const ScratchVector sum(out.numel, state_dtype(out.dtype));  // somebody took no part
  clear(sum.view());
  for (size_t i = 0; i < from.size(); ++i)
    reader_of(from[i].sections[0], compressor_)->decode_add(payloads[i], out.dtype, 1.0, sum.view());
  divide(sum.view(), static_cast<double>(from.size()));
  assign(out, sum.view());
}

}  // namespace tsq
