#include "compressors/perm_k.h"

#include "compressors/random_values.h"

namespace tsq {

std::string PermK::spec() const {
  const std::string option = values().spec();
  return "PermK(" + (option.empty() ? option : option.substr(2)) + ")";
}

Class PermK::class_of(size_t n, uint32_t world_size) const {
  const double world = world_size;
  return random_class(world - 1.0, 1.0 / world, config_.scaled, values().class_of((n + world_size - 1) / world_size));
}

Compressor::Encoded PermK::run(kernels::Form form, ConstView x, void* state, const EncodeKey& key,
                               MutableBytes out) const {
  const SubsetHead head{subset_key(key.shared, key.offset), key.rank % key.world_size | uint64_t{key.world_size} << 32};
  return send(form, x, state, key, head, config_.scaled ? key.world_size : 1.0, out);
}

}  // namespace tsq
