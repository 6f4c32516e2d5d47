#include "bindings/module.h"

#include <ATen/ops/empty.h>
#include <torch/version.h>

#include <cstring>

#include "common/error.h"
#include "kernels/quantizer.h"

namespace py = pybind11;

namespace tsq {

DType dtype_of(at::ScalarType type) {
  const auto dtype = to_dtype(type);
  if (!dtype) throw ArgumentError(concat("dtype: expected float32, float64, float16 or bfloat16, got ", type));
  return *dtype;
}

View view_of(const at::Tensor& tensor, const char* name) {
  const auto dtype = to_dtype(tensor.scalar_type());
  if (!dtype)
    throw ArgumentError(
        concat(name, ": expected dtype float32, float64, float16 or bfloat16, got ", tensor.scalar_type()));
  if (!tensor.device().is_cpu())
    throw ArgumentError(concat(name, ": expected device cpu, got ", tensor.device().str()));
  if (tensor.layout() != at::kStrided) throw ArgumentError(concat(name, ": expected a dense tensor, got a sparse one"));
  if (!tensor.is_contiguous())
    throw ArgumentError(
        concat(name, ": expected a contiguous tensor, got strides ", tensor.strides(), "; call .contiguous()"));
  return {tensor.data_ptr(), *dtype, static_cast<size_t>(tensor.numel())};
}

Bytes bytes_of(const at::Tensor& tensor, const char* name) {
  if (tensor.scalar_type() != at::kByte || tensor.dim() != 1 || !tensor.is_contiguous() || !tensor.device().is_cpu())
    throw ArgumentError(concat(name, ": expected a contiguous 1-D uint8 tensor on the cpu, got ", tensor.dim(), "-D ",
                               tensor.scalar_type(), " on ", tensor.device().str()));
  return {tensor.const_data_ptr<uint8_t>(), static_cast<size_t>(tensor.numel())};
}

at::Tensor new_tensor(size_t numel, at::ScalarType type) {
  return at::empty({static_cast<int64_t>(numel)}, at::TensorOptions().dtype(type));
}

at::Tensor copy_of(ConstView view) {
  at::Tensor copy = new_tensor(view.numel, to_scalar_type(view.dtype));
  if (view.numel) std::memcpy(copy.mutable_data_ptr(), view.data, view.numel * size_of(view.dtype));
  return copy;
}

}  // namespace tsq

PYBIND11_MODULE(_C, m) {
  using namespace tsq;
  m.attr("built_for_torch") = TORCH_VERSION;

  // Both are ValueErrors: bad input, not a bug of ours.
  static py::exception<SpecError> spec_error(m, "SpecError", PyExc_ValueError);
  static py::exception<WireError> wire_error(m, "WireError", PyExc_ValueError);
  spec_error.attr("__doc__") =
      "A spec does not parse or names impossible values; the message shows the column. A ValueError.";
  wire_error.attr("__doc__") = "Bytes are not the message that was due; names field, expected, found. A ValueError.";
  py::register_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const SpecError& e) {
      py::set_error(spec_error, e.what());
    } catch (const WireError& e) {
      py::set_error(wire_error, e.what());
    } catch (const ArgumentError& e) {
      py::set_error(PyExc_ValueError, e.what());
    }
  });

  m.def("simd_targets", [] {
    size_t count = 0;
    const char* const* names = kernels::simd_targets(&count);
    return std::vector<std::string>(names, names + count);
  });
  m.def("force_simd_target", [](std::optional<std::string> name) {
    if (!kernels::force_simd_target(name ? name->c_str() : nullptr))
      throw ArgumentError(concat("target: expected one of simd_targets(), got ", *name));
  });

  bind_codec(m);
  bind_spec(m);
  bind_policy(m);
  bind_smoothness(m);
  bind_endpoints(m);
  bind_hook(m);
}
