// torch.ops.torch_smoothquant: schema, checks, Meta, dispatch. No logic: that is in compressors and mechanisms.
//
// A message leaves an op in memory of fixed capacity, a function of x's number of elements alone; its length is in its
// header, the bytes behind it are zero.
#include <ATen/MemoryOverlap.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>

#include "common/error.h"
#include "common/torch_dtype.h"
#include "compressors/message.h"
#include "compressors/registry.h"

namespace tsq {

namespace {

using kernels::Form;

/// One of the three encoders: its name and its state's, for errors.
struct Op {
  Form form;
  const char* name;
  const char* state;
};
constexpr Op kEncode{Form::kPlain, "encode", ""};
constexpr Op kEncodeResidual{Form::kResidual, "encode_residual", "residual"};
constexpr Op kEncodeShifted{Form::kShifted, "encode_shifted", "shift"};

CompressorPtr parse(const Op& op, c10::string_view spec) {
  try {
    return parse_compressor(std::string_view(spec.data(), spec.size()));
  } catch (const SpecError& e) {
    TORCH_CHECK_VALUE(false, op.name, ": compressor: ", e.what());
  }
}

/// What can be said of the arguments without their memory: the same for CPU and Meta.
void check_encode(const Op& op, const at::Tensor& x, const at::Tensor* state, int64_t rank, int64_t world_size) {
  const auto dtype = to_dtype(x.scalar_type());
  TORCH_CHECK_VALUE(dtype, op.name, ": x: expected dtype float32, float64, float16 or bfloat16, got ", x.scalar_type());
  TORCH_CHECK_VALUE(world_size >= 1 && world_size <= UINT32_MAX, op.name, ": world_size: expected 1 to 2^32 - 1, got ",
                    world_size);
  // 1 also stands for a world that the caller does not know
  const int64_t ranks = world_size == 1 ? int64_t{UINT32_MAX} + 1 : world_size;
  TORCH_CHECK_VALUE(rank >= 0 && rank < ranks, op.name, ": rank: expected 0 to ", ranks - 1, ", got ", rank);
  if (state == nullptr) return;
  const at::ScalarType expected = to_scalar_type(state_dtype(*dtype));
  TORCH_CHECK_VALUE(state->scalar_type() == expected, op.name, ": ", op.state, ": expected dtype ", expected,
                    " for an x of ", x.scalar_type(), ", got ", state->scalar_type());
  TORCH_CHECK_VALUE(state->sym_numel() == x.sym_numel(), op.name, ": ", op.state, ": expected as many elements as x, ",
                    x.sym_numel(), ", got ", state->sym_numel());
}

c10::SymInt capacity(const Compressor& c, const at::Tensor& x) {
  return c.capacity(*to_dtype(x.scalar_type())).bytes(x.sym_numel()) + static_cast<int64_t>(wire::overhead(1));
}

void check_memory(const Op& op, const at::Tensor& x, const at::Tensor* state) {
  TORCH_CHECK_VALUE(x.is_contiguous(), op.name, ": x: expected a contiguous tensor, got strides ", x.strides());
  if (state == nullptr) return;
  TORCH_CHECK_VALUE(state->is_contiguous(), op.name, ": ", op.state, ": expected a contiguous tensor, got strides ",
                    state->strides());
  TORCH_CHECK_VALUE(x.numel() == 0 || at::get_overlap_status(x, *state) == at::MemOverlapStatus::No, op.name, ": ",
                    op.state, ": expected memory of its own, got some of x's");
}

at::Tensor encode_cpu(const Op& op, const at::Tensor& x, const at::Tensor* state, c10::string_view compressor,
                      int64_t seed, int64_t step, int64_t rank, int64_t world_size) {
  check_encode(op, x, state, rank, world_size);
  check_memory(op, x, state);
  const CompressorPtr c = parse(op, compressor);
  const ConstView view{x.const_data_ptr(), *to_dtype(x.scalar_type()), static_cast<size_t>(x.numel())};
  const int64_t bytes = capacity(*c, x).expect_int();
  TORCH_INTERNAL_ASSERT(max_message_bytes(*c, view.numel, view.dtype) <= static_cast<size_t>(bytes), c->spec());
  at::Tensor out = at::empty({bytes}, x.options().dtype(at::kByte));
  Encoding encoding{.form = op.form, .seed = static_cast<uint64_t>(seed), .step = static_cast<uint64_t>(step)};
  encoding.rank = static_cast<uint32_t>(rank);
  encoding.world_size = static_cast<uint32_t>(world_size);
  if (state != nullptr) encoding.state = {state->mutable_data_ptr(), state_dtype(view.dtype), view.numel};
  const MutableBytes memory(out.mutable_data_ptr<uint8_t>(), static_cast<size_t>(bytes));
  try {
    const size_t length = encode_message(*c, view, encoding, memory);
    std::fill(memory.begin() + static_cast<ptrdiff_t>(length), memory.end(), uint8_t{0});
  } catch (const ArgumentError& e) {
    TORCH_CHECK_VALUE(false, op.name, ": ", e.what());
  }
  return out;
}

at::Tensor encode_meta(const Op& op, const at::Tensor& x, const at::Tensor* state, c10::string_view compressor,
                       int64_t rank, int64_t world_size) {
  check_encode(op, x, state, rank, world_size);
  return at::empty_symint({capacity(*parse(op, compressor), x)}, x.options().dtype(at::kByte));
}

/// The message at the front of `tensor`, payloads checked, with `numel` elements. Throws WireError.
wire::Message message_in(const char* op, const at::Tensor& tensor, uint64_t numel) {
  TORCH_CHECK_VALUE(tensor.scalar_type() == at::kByte && tensor.dim() == 1 && tensor.is_contiguous(), op,
                    ": message: expected a contiguous 1-D uint8 tensor, got ", tensor.dim(), "-D ",
                    tensor.scalar_type());
  const Bytes bytes(tensor.const_data_ptr<uint8_t>(), static_cast<size_t>(tensor.numel()));
  uint64_t found = 0;
  wire::Message message = check_message(bytes.first(wire::stated_length(bytes)), &found);
  if (found != numel) throw_wire("numel", numel, found);
  return message;
}

at::Tensor decode_cpu(const at::Tensor& message, int64_t numel, at::ScalarType dtype) {
  const auto expected = to_dtype(dtype);
  TORCH_CHECK_VALUE(expected, "decode: dtype: expected float32, float64, float16 or bfloat16, got ", dtype);
  TORCH_CHECK_VALUE(numel >= 0, "decode: numel: expected 0 or more, got ", numel);
  try {
    const wire::Message parsed = message_in("decode", message, static_cast<uint64_t>(numel));
    if (parsed.header.dtype != *expected) throw_wire("dtype", name_of(*expected), name_of(parsed.header.dtype));
    at::Tensor out = at::empty({numel}, message.options().dtype(dtype));
    decode_message(parsed, {out.mutable_data_ptr(), *expected, static_cast<size_t>(numel)});
    return out;
  } catch (const WireError& e) {
    TORCH_CHECK_VALUE(false, "decode: message: ", e.what());
  }
}

at::Tensor decode_meta(const at::Tensor& message, c10::SymInt numel, at::ScalarType dtype) {
  return at::empty_symint({std::move(numel)}, message.options().dtype(dtype));
}

void check_acc(const at::Tensor& acc) {
  TORCH_CHECK_VALUE(acc.scalar_type() == at::kFloat || acc.scalar_type() == at::kDouble,
                    "decode_add: acc: expected dtype float32 or float64, got ", acc.scalar_type());
}

void decode_add_cpu(const at::Tensor& acc, const at::Tensor& message, double scale) {
  check_acc(acc);
  TORCH_CHECK_VALUE(acc.is_contiguous(), "decode_add: acc: expected a contiguous tensor, got strides ", acc.strides());
  try {
    const wire::Message parsed = message_in("decode_add", message, static_cast<uint64_t>(acc.numel()));
    TORCH_CHECK_VALUE(acc.numel() == 0 || at::get_overlap_status(acc, message) == at::MemOverlapStatus::No,
                      "decode_add: acc: expected memory of its own, got some of message's");
    decode_message_add(parsed, scale,
                       {acc.mutable_data_ptr(), *to_dtype(acc.scalar_type()), static_cast<size_t>(acc.numel())});
  } catch (const WireError& e) {
    TORCH_CHECK_VALUE(false, "decode_add: message: ", e.what());
  }
}

void decode_add_meta(const at::Tensor& acc, const at::Tensor&, double) { check_acc(acc); }

}  // namespace

TORCH_LIBRARY(torch_smoothquant, m) {
  const std::vector<at::Tag> tags{at::Tag::pt2_compliant_tag};
  m.def("encode(Tensor x, str compressor, SymInt seed=0, SymInt step=0, int rank=0, int world_size=1) -> Tensor", tags);
  m.def(
      "encode_residual(Tensor x, Tensor(a!) residual, str compressor, SymInt seed=0, SymInt step=0, int rank=0, "
      "int world_size=1) -> Tensor",
      tags);
  m.def(
      "encode_shifted(Tensor x, Tensor(a!) shift, str compressor, SymInt seed=0, SymInt step=0, int rank=0, "
      "int world_size=1) -> Tensor",
      tags);
  m.def("decode(Tensor message, SymInt numel, ScalarType dtype) -> Tensor", tags);
  m.def("decode_add(Tensor(a!) acc, Tensor message, float scale=1.0) -> ()", tags);
}

namespace {

template <const Op& op>
at::Tensor with_state_cpu(const at::Tensor& x, const at::Tensor& state, c10::string_view compressor, int64_t seed,
                          int64_t step, int64_t rank, int64_t world_size) {
  return encode_cpu(op, x, &state, compressor, seed, step, rank, world_size);
}

template <const Op& op>
at::Tensor with_state_meta(const at::Tensor& x, const at::Tensor& state, c10::string_view compressor, c10::SymInt,
                           c10::SymInt, int64_t rank, int64_t world_size) {
  return encode_meta(op, x, &state, compressor, rank, world_size);
}

}  // namespace

TORCH_LIBRARY_IMPL(torch_smoothquant, CPU, m) {
  m.impl("encode",
         [](const at::Tensor& x, c10::string_view compressor, int64_t seed, int64_t step, int64_t rank,
            int64_t world_size) { return encode_cpu(kEncode, x, nullptr, compressor, seed, step, rank, world_size); });
  m.impl("encode_residual", &with_state_cpu<kEncodeResidual>);
  m.impl("encode_shifted", &with_state_cpu<kEncodeShifted>);
  m.impl("decode", &decode_cpu);
  m.impl("decode_add", &decode_add_cpu);
}
TORCH_LIBRARY_IMPL(torch_smoothquant, Meta, m) {
  m.impl("encode", [](const at::Tensor& x, c10::string_view compressor, c10::SymInt, c10::SymInt, int64_t rank,
                      int64_t world_size) { return encode_meta(kEncode, x, nullptr, compressor, rank, world_size); });
  m.impl("encode_residual", &with_state_meta<kEncodeResidual>);
  m.impl("encode_shifted", &with_state_meta<kEncodeShifted>);
  m.impl("decode", &decode_meta);
  m.impl("decode_add", &decode_add_meta);
}

}  // namespace tsq
