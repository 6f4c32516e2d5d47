// Top-k's sweep over memory: what is compressed, and which elements of it are large. No checks, no allocation, no
// throw; thread-safe.
//
// As in kernels/quantizer.h there is a SIMD version, chosen at run time, and a scalar oracle that does the same.
#pragma once

#include "kernels/quantizer.h"

namespace tsq::kernels {

/// The sweep may write this many elements past the candidates that it reports.
constexpr size_t kTopKSlack = 64;

/// With acc_i = x_i, e_i + x_i or x_i - h_i in state_dtype(x.dtype), for i in [begin, end): kResidual stores e_i =
/// acc_i (the other forms leave the state alone), and every i with (bits of acc_i without sign) >= floor is appended to
/// `index` and acc_i to `value` (of state_dtype), at *count, which grows. floor >= 1: a zero is never a candidate.
/// Returns `end`, or the first i at which acc_i is not finite; from there on nothing has been done.
size_t topk_sweep(Form form, ConstView x, void* state, size_t begin, size_t end, uint64_t floor, uint32_t* index,
                  void* value, size_t* count);

namespace scalar {
size_t topk_sweep(Form form, ConstView x, void* state, size_t begin, size_t end, uint64_t floor, uint32_t* index,
                  void* value, size_t* count);
}  // namespace scalar

}  // namespace tsq::kernels
