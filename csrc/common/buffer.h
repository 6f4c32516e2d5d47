// Zero-initialised memory for state and scratch: aligned, sized in elements of a DType, movable.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "common/bytes.h"
#include "common/dtype.h"

namespace tsq {

/// Frees what was allocated with this alignment.
struct FreeAligned {
  std::align_val_t alignment{64};
  void operator()(uint8_t* p) const { ::operator delete(p, alignment); }
};

class Buffer {
 public:
  static constexpr size_t kAlignment = 64, kHugePage = size_t{1} << 21;

  Buffer() = default;
  Buffer(size_t numel, DType dtype) : dtype_(dtype), numel_(numel), data_(allocate(numel * size_of(dtype))) {}

  View view() const { return {data_.get(), dtype_, numel_}; }
  size_t bytes() const { return numel_ * size_of(dtype_); }

 private:
  using Memory = std::unique_ptr<uint8_t, FreeAligned>;

  /// Large ones in huge pages where the system has them: sweeps over several vectors at once run out of small ones.
  static Memory allocate(size_t bytes) {
    const FreeAligned free{std::align_val_t{bytes < 2 * kHugePage ? kAlignment : kHugePage}};
    auto* p = static_cast<uint8_t*>(::operator new(bytes ? bytes : 1, free.alignment));
#ifdef __linux__
    if (bytes >= 2 * kHugePage) madvise(p, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);  // a hint: may fail
#endif
    std::memset(p, 0, bytes);
    return Memory(p, free);
  }

  DType dtype_ = DType::kFloat32;
  size_t numel_ = 0;
  Memory data_;
};

}  // namespace tsq
