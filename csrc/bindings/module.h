// The parts of the Python module; one file each. This room alone includes pybind11.
#pragma once

#include <torch/csrc/utils/pybind.h>  // torch's own pybind11 and its casters: first

#include "common/bytes.h"
#include "common/torch_dtype.h"
#include "policy/cat.h"

namespace tsq {

void bind_codec(pybind11::module_& m);
void bind_spec(pybind11::module_& m);
void bind_endpoints(pybind11::module_& m);
void bind_smoothness(pybind11::module_& m);
void bind_hook(pybind11::module_& m);

class Hook;
void bind_hook_state(pybind11::class_<Hook, std::shared_ptr<Hook>>& hook);
void bind_policy(pybind11::module_& m);

/// Throws ArgumentError unless it is an element type of ours.
DType dtype_of(at::ScalarType type);

/// The tensor's memory as a view. Throws ArgumentError naming `name` unless it is a contiguous floating CPU tensor.
View view_of(const at::Tensor& tensor, const char* name);

/// A copy of a contiguous float64 tensor. Throws ArgumentError, which begins with `name`.
Weights weights_of(const at::Tensor& tensor, const std::string& name);

/// A 1-D uint8 tensor's memory. Throws ArgumentError naming `name` otherwise.
Bytes bytes_of(const at::Tensor& tensor, const char* name);

/// A new CPU tensor of `numel` elements.
at::Tensor new_tensor(size_t numel, at::ScalarType type);

/// A new 1-D CPU tensor with the view's elements and dtype.
at::Tensor copy_of(ConstView view);

}  // namespace tsq
