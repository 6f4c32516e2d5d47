#include "compressors/rand_k.h"

#include "compressors/random_values.h"

namespace tsq {

std::string RandK::spec() const {
  return "RandK(" + count_.text() + (config_.shared ? ", shared=True" : "") + values().spec() + ")";
}

Class RandK::class_of(size_t n, uint32_t) const {
  const uint64_t k = count_.of(n);
  const double share = n ? static_cast<double>(k) / static_cast<double>(n) : 1.0;
  return random_class(1.0 / share - 1.0, share, config_.scaled, values().class_of(k));
}

Compressor::Encoded RandK::run(kernels::Form form, ConstView x, void* state, const EncodeKey& key,
                               MutableBytes out) const {
  const uint64_t k = count_.of(x.numel);
  const double scale = config_.scaled && k ? static_cast<double>(x.numel) / static_cast<double>(k) : 1.0;
  const SubsetHead head{subset_key(config_.shared ? key.shared : key.philox, key.offset), k};
  return send(form, x, state, key, head, scale, out);
}

}  // namespace tsq
