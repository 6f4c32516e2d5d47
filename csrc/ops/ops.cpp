// torch.ops.torch_smoothquant: schema, checks, Meta, dispatch. No logic: that is in compressors and mechanisms.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "common/error.h"
#include "common/torch_dtype.h"
#include "compressors/message.h"
#include "compressors/registry.h"

namespace tsq {

namespace {

/// Outputs of ops have a size that follows from their arguments' sizes.
CompressorPtr parse_fixed(c10::string_view spec) {
  CompressorPtr c;
  try {
    c = parse_compressor(std::string_view(spec.data(), spec.size()));
  } catch (const SpecError& e) {
    C10_THROW_ERROR(ValueError, e.what());
  }
  TORCH_CHECK_VALUE(c->has_fixed_size(), "encode: compressor: expected one whose messages have a fixed length, got ",
                    c->spec(), "; use torch_smoothquant.encode");
  return c;
}

void check_encode(const at::Tensor& x, int64_t rank) {
  TORCH_CHECK_VALUE(to_dtype(x.scalar_type()), "encode: x: expected dtype float32, float64, float16 or bfloat16, got ",
                    x.scalar_type());
  TORCH_CHECK_VALUE(rank >= 0 && rank <= UINT32_MAX, "encode: rank: expected 0 to 2^32 - 1, got ", rank);
}

at::Tensor encode_cpu(const at::Tensor& x, c10::string_view compressor, int64_t seed, int64_t step, int64_t rank) {
  check_encode(x, rank);
  TORCH_CHECK_VALUE(x.is_contiguous(), "encode: x: expected a contiguous tensor, got strides ", x.strides());
  const CompressorPtr c = parse_fixed(compressor);
  const ConstView view{x.const_data_ptr(), *to_dtype(x.scalar_type()), static_cast<size_t>(x.numel())};
  const size_t bytes = max_message_bytes(*c, view.numel, view.dtype);
  at::Tensor out = at::empty({static_cast<int64_t>(bytes)}, x.options().dtype(at::kByte));
  encode_message(*c, view, static_cast<uint64_t>(seed), static_cast<uint64_t>(step), static_cast<uint32_t>(rank),
                 {out.mutable_data_ptr<uint8_t>(), bytes});
  return out;
}

/// The size of a message in terms of a symbolic number of elements: the formula of docs/wire_format.md.
c10::SymInt symbolic_bytes(const Compressor& c, const c10::SymInt& n, size_t element_bytes) {
  const c10::SymInt overhead(static_cast<int64_t>(wire::overhead(1)));
  const wire::Format format = c.format();
  if (format.codec == wire::Codec::kRaw) return overhead + n * static_cast<int64_t>(element_bytes);
  if (format.codec == wire::Codec::kNatural) return overhead + n + (n + 255) / 256 * 32;
  if (format.codec == wire::Codec::kCast) return overhead + (format.variant < 2 ? n * 2 : n + (n + 255) / 256 * 4);
  const int64_t bits = format.bits, block = format.block;
  const c10::SymInt tail_rows = (n % 256 + 31) / 32;
  return overhead + (n + (block - 1)) / block * 4 + ((n / 256) * bits + (tail_rows * bits + 7) / 8) * 32;
}

at::Tensor encode_meta(const at::Tensor& x, c10::string_view compressor, c10::SymInt, c10::SymInt, int64_t rank) {
  check_encode(x, rank);
  const c10::SymInt bytes = symbolic_bytes(*parse_fixed(compressor), x.sym_numel(), x.element_size());
  return at::empty_symint({bytes}, x.options().dtype(at::kByte));
}

at::Tensor decode_cpu(const at::Tensor& message, int64_t numel, at::ScalarType dtype) {
  TORCH_CHECK_VALUE(message.scalar_type() == at::kByte && message.dim() == 1 && message.is_contiguous(),
                    "decode: message: expected a contiguous 1-D uint8 tensor, got ", message.dim(), "-D ",
                    message.scalar_type());
  const auto expected = to_dtype(dtype);
  TORCH_CHECK_VALUE(expected, "decode: dtype: expected float32, float64, float16 or bfloat16, got ", dtype);
  try {
    uint64_t found = 0;
    const wire::Message parsed =
        check_message({message.const_data_ptr<uint8_t>(), static_cast<size_t>(message.numel())}, &found);
    if (parsed.header.dtype != *expected) throw_wire("dtype", name_of(*expected), name_of(parsed.header.dtype));
    if (numel < 0 || found != static_cast<uint64_t>(numel)) throw_wire("numel", numel, found);
    at::Tensor out = at::empty({numel}, message.options().dtype(dtype));
    decode_message(parsed, {out.mutable_data_ptr(), *expected, static_cast<size_t>(numel)});
    return out;
  } catch (const WireError& e) {
    C10_THROW_ERROR(ValueError, e.what());
  }
}

at::Tensor decode_meta(const at::Tensor& message, c10::SymInt numel, at::ScalarType dtype) {
  return at::empty_symint({std::move(numel)}, message.options().dtype(dtype));
}

}  // namespace

TORCH_LIBRARY(torch_smoothquant, m) {
  m.def("encode(Tensor x, str compressor, SymInt seed=0, SymInt step=0, int rank=0) -> Tensor",
        {at::Tag::pt2_compliant_tag});
  m.def("decode(Tensor message, SymInt numel, ScalarType dtype) -> Tensor", {at::Tag::pt2_compliant_tag});
}
TORCH_LIBRARY_IMPL(torch_smoothquant, CPU, m) {
  m.impl("encode", &encode_cpu);
  m.impl("decode", &decode_cpu);
}
TORCH_LIBRARY_IMPL(torch_smoothquant, Meta, m) {
  m.impl("encode", &encode_meta);
  m.impl("decode", &decode_meta);
}

}  // namespace tsq
