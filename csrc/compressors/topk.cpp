#include "compressors/topk.h"

namespace tsq {

Class TopK::class_of(size_t n, uint32_t) const {
  const size_t k = target(n);
  const Class sent = values().class_of(k);
  if (k == n) return sent;
  // |x - Q T x|^2 = |x - T x|^2 + |T x - Q T x|^2 <= |x|^2 - a |T x|^2
  const auto n_double = static_cast<double>(n);
  return {.omega = std::nullopt,
          .alpha = sent.alpha ? std::optional(*sent.alpha * (static_cast<double>(k) / n_double)) : std::nullopt};
}

Compressor::Encoded TopK::run(kernels::Form form, ConstView x, void* state, const EncodeKey& key,
                              MutableBytes out) const {
  check_length("TopK", x.numel);
  return with_element(x.dtype, [&](auto element) -> Encoded {
    thread_local Selection<typename decltype(element)::State> kept;  // reused: as large as the largest section
    if (!select_largest(form, x, state, target(x.numel), kept)) return send_nothing(x, out);
    return send(form, x, state, key, kept, out);
  });
}

}  // namespace tsq
