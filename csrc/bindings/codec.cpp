// One compressor's payloads, without messages, in memory that the caller keeps: what benchmarks/codecs times. And the
// number of threads.
#include "bindings/module.h"
#include "common/error.h"
#include "common/parallel.h"
#include "compressors/registry.h"

namespace py = pybind11;

namespace tsq {

namespace {

struct Codec {
  CompressorPtr compressor;
  uint32_t rank, world_size;

  EncodeKey key(uint64_t step) const { return encode_key({.seed = 1, .step = step, .rank = rank}, 0, world_size); }
};

Codec make_codec(const std::string& spec, bool contractive, uint32_t rank, uint32_t world_size) {
  const CompressorPtr c = parse_compressor(spec);
  return {contractive ? c->as_contractive() : c->as_unbiased(), rank, world_size};
}

MutableBytes room_in(const Codec& self, const View& x, const at::Tensor& out) {
  const Bytes bytes = bytes_of(out, "out");
  const size_t needed = self.compressor->max_bytes(x.numel, x.dtype);
  if (bytes.size() < needed) throw ArgumentError(concat("out: expected ", needed, " bytes, got ", bytes.size()));
  return {out.mutable_data_ptr<uint8_t>(), bytes.size()};
}

View state_of(const View& x, const at::Tensor& state) {
  const View view = view_of(state, "state");
  if (view.numel != x.numel || view.dtype != state_dtype(x.dtype))
    throw ArgumentError(concat("state: expected ", x.numel, " elements of ", name_of(state_dtype(x.dtype))));
  return view;
}

using Encoded = std::pair<size_t, bool>;

Encoded encode(const Codec& self, const at::Tensor& tensor, uint64_t step, const at::Tensor& out) {
  const View x = view_of(tensor, "x");
  const MutableBytes room = room_in(self, x, out);
  py::gil_scoped_release no_gil;
  const auto sent = self.compressor->encode(x, self.key(step), room);
  return {sent.bytes, sent.finite};
}

template <Compressor::Encoded (Compressor::*kEncode)(ConstView, View, const EncodeKey&, MutableBytes) const>
Encoded encode_with(const Codec& self, const at::Tensor& tensor, const at::Tensor& state, uint64_t step,
                    const at::Tensor& out) {
  const View x = view_of(tensor, "x"), view = state_of(x, state);
  const MutableBytes room = room_in(self, x, out);
  py::gil_scoped_release no_gil;
  const auto sent = (self.compressor.get()->*kEncode)(x, view, self.key(step), room);
  return {sent.bytes, sent.finite};
}

void validate(const Codec& self, const at::Tensor& payload, uint64_t numel, at::ScalarType type) {
  const Bytes bytes = bytes_of(payload, "payload");
  if (!to_dtype(type)) throw ArgumentError(concat("dtype: expected a floating one, got ", type));
  py::gil_scoped_release no_gil;
  self.compressor->validate(bytes, numel, *to_dtype(type));
}

// The decoders trust their payloads: so must whoever calls these.
void decode_add(const Codec& self, const std::vector<at::Tensor>& payloads, at::ScalarType type, double scale,
                const at::Tensor& acc) {
  const View view = view_of(acc, "acc");
  if (!to_dtype(type) || view.dtype != state_dtype(view.dtype)) throw ArgumentError("acc: expected float32 or float64");
  std::vector<Bytes> bytes;
  for (const at::Tensor& payload : payloads) bytes.push_back(bytes_of(payload, "payloads"));
  py::gil_scoped_release no_gil;
  for (const Bytes& payload : bytes) self.compressor->decode_add(payload, *to_dtype(type), scale, view);
}

void decode_mean(const Codec& self, const std::vector<at::Tensor>& payloads, const at::Tensor& out) {
  const View view = view_of(out, "out");
  std::vector<Bytes> bytes;
  for (const at::Tensor& payload : payloads) bytes.push_back(bytes_of(payload, "payloads"));
  py::gil_scoped_release no_gil;
  self.compressor->decode_mean(bytes, view);
}

void copy_bytes(const at::Tensor& to, const at::Tensor& from) {
  const View out = view_of(to, "to"), in = view_of(from, "from");
  if (out.numel * size_of(out.dtype) != in.numel * size_of(in.dtype))
    throw ArgumentError("to: expected as many bytes as from has");
  py::gil_scoped_release no_gil;
  if (in.numel) std::memcpy(out.data, in.data, in.numel * size_of(in.dtype));
}

}  // namespace

void bind_codec(py::module_& m) {
  py::class_<Codec>(m, "Codec")
      .def(py::init(&make_codec), py::arg("spec"), py::arg("contractive"), py::arg("rank") = 0,
           py::arg("world_size") = 1)
      .def("encode", &encode)
      .def("encode_residual", &encode_with<&Compressor::encode_residual>)
      .def("encode_shifted", &encode_with<&Compressor::encode_shifted>)
      .def("validate", &validate)
      .def("decode_add", &decode_add)
      .def("decode_mean", &decode_mean)
      .def("max_bytes", [](const Codec& self, const at::Tensor& x) {
        const View view = view_of(x, "x");
        return self.compressor->max_bytes(view.numel, view.dtype);
      });
  m.def("copy_bytes", &copy_bytes);
  m.def("set_num_threads", &set_num_threads);
  m.def("num_threads", &num_threads);
}

}  // namespace tsq
