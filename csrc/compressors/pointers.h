// The payloads' addresses as the kernels take them; most worlds need no allocation.
#pragma once

#include <array>
#include <span>
#include <vector>

#include "common/bytes.h"

namespace tsq {

class Pointers {
 public:
  /// Of byte `offset` in each.
  explicit Pointers(std::span<const Bytes> payloads, size_t offset = 0) {
    if (payloads.size() > few_.size()) many_.resize(payloads.size());
    const uint8_t** const to = many_.empty() ? few_.data() : many_.data();
    for (size_t i = 0; i < payloads.size(); ++i) to[i] = payloads[i].data() + offset;
  }
  const uint8_t* const* data() const { return many_.empty() ? few_.data() : many_.data(); }

 private:
  std::array<const uint8_t*, 16> few_{};
  std::vector<const uint8_t*> many_;
};

}  // namespace tsq
