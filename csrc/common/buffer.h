// Zero-initialised memory for state and scratch: aligned, sized in elements of a DType, movable.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>

#include "common/bytes.h"
#include "common/dtype.h"

namespace tsq {

class Buffer {
 public:
  static constexpr size_t kAlignment = 64;

  Buffer() = default;
  Buffer(size_t numel, DType dtype) : dtype_(dtype), numel_(numel), data_(allocate(numel * size_of(dtype))) {}

  View view() const { return {data_.get(), dtype_, numel_}; }
  size_t bytes() const { return numel_ * size_of(dtype_); }

 private:
  struct Free {
    void operator()(uint8_t* p) const { ::operator delete (p, std::align_val_t{kAlignment}); }
  };

  static uint8_t* allocate(size_t bytes) {
    auto* p = static_cast<uint8_t*>(::operator new (bytes ? bytes : 1, std::align_val_t{kAlignment}));
    std::memset(p, 0, bytes);
    return p;
  }

  DType dtype_ = DType::kFloat32;
  size_t numel_ = 0;
  std::unique_ptr<uint8_t, Free> data_;
};

}  // namespace tsq
