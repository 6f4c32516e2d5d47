// Sender, Receiver, encode and decode.
#include <new>

#include "bindings/module.h"
#include "common/error.h"
#include "compressors/message.h"
#include "compressors/registry.h"
#include "mechanisms/endpoint.h"
#include "mechanisms/registry.h"
#include "policy/cat.h"

namespace py = pybind11;

namespace tsq {

namespace {

EndpointConfig make_config(const std::string& spec, int64_t numel, int64_t world_size, at::ScalarType type,
                           uint64_t seed, const std::vector<std::shared_ptr<Smoothness>>& smoothness) {
  if (numel < 0) throw ArgumentError(concat("numel: expected 0 or more, got ", numel));
  if (world_size < 1 || world_size > UINT32_MAX)
    throw ArgumentError(concat("world_size: expected 1 or more, got ", world_size));
  const DType dtype = dtype_of(type);
  MechanismPtr mechanism = parse_mechanism(spec);
  if (!smoothness.empty()) {
    if (state_dtype(dtype) != dtype)
      throw ArgumentError(concat("dtype: expected float32 or float64 with a smoothness, got ", type));
    mechanism = mechanism->with_smoothness(
        {{smoothness.begin(), smoothness.end()}, static_cast<size_t>(numel), static_cast<uint32_t>(world_size)});
  }
  return {std::move(mechanism), static_cast<size_t>(numel), static_cast<uint32_t>(world_size), dtype, seed};
}

Sender make_sender(const std::string& spec, int64_t numel, int64_t rank, int64_t world_size, at::ScalarType type,
                   uint64_t seed, const std::vector<std::shared_ptr<Smoothness>>& smoothness) {
  const EndpointConfig config = make_config(spec, numel, world_size, type, seed, smoothness);
  if (rank < 0 || rank >= world_size)
    throw ArgumentError(concat("rank: expected 0 to ", world_size - 1, ", got ", rank));
  return Sender(config, static_cast<uint32_t>(rank));
}

/// Runs `write` on a fresh buffer of `capacity` bytes and returns exactly what was written.
template <class Write>
at::Tensor message_of(size_t capacity, Write&& write) {
  at::Tensor out = new_tensor(capacity, at::kByte);
  const size_t length = write(MutableBytes{out.mutable_data_ptr<uint8_t>(), capacity});
  return length == capacity ? out : out.narrow(0, 0, static_cast<int64_t>(length)).clone();
}

at::Tensor send(Sender& sender, const at::Tensor& gradient, const Cat* policy, double price) {
  const View x = view_of(gradient, "gradient");
  py::gil_scoped_release no_gil;
  std::optional<CatChooser> chooser;
  if (policy) chooser = policy->chooser(1.0, price);
  return message_of(sender.max_message_bytes(),
                    [&](MutableBytes out) { return sender.send(x, out, chooser ? &*chooser : nullptr); });
}

std::optional<std::pair<uint64_t, double>> choice_of(const Sender& sender) {
  if (!sender.choice()) return std::nullopt;
  return std::pair(sender.choice()->entries, sender.choice()->factor);
}

at::Tensor receive(Receiver& receiver, const std::vector<at::Tensor>& messages) {
  std::vector<Bytes> bytes;
  for (const at::Tensor& message : messages) bytes.push_back(bytes_of(message, "messages"));
  py::gil_scoped_release no_gil;
  at::Tensor out = new_tensor(receiver.config().numel, to_scalar_type(receiver.config().dtype));
  receiver.receive(bytes, view_of(out, "out"));
  return out;
}

at::Tensor encode(const std::string& spec, const at::Tensor& tensor, uint64_t seed, uint64_t step, int64_t rank,
                  int64_t world_size) {
  const View x = view_of(tensor, "x");
  if (rank < 0 || rank > UINT32_MAX) throw ArgumentError(concat("rank: expected 0 to 2^32 - 1, got ", rank));
  if (world_size < 1 || world_size > UINT32_MAX)
    throw ArgumentError(concat("world_size: expected 1 to 2^32 - 1, got ", world_size));
  if (world_size > 1 && rank >= world_size)
    throw ArgumentError(concat("rank: expected 0 to ", world_size - 1, ", got ", rank));
  const CompressorPtr c = parse_compressor(spec);
  py::gil_scoped_release no_gil;
  return message_of(max_message_bytes(*c, x.numel, x.dtype), [&](MutableBytes out) {
    return encode_message(*c, x, seed, step, static_cast<uint32_t>(rank), out, static_cast<uint32_t>(world_size));
  });
}

/// Memory for what a message claims to hold: that it cannot be had is the message's fault.
at::Tensor claimed_tensor(uint64_t numel, DType dtype) {
  try {
    return new_tensor(numel, to_scalar_type(dtype));
  } catch (const c10::Error&) {
  } catch (const std::bad_alloc&) {
  }
  throw_wire("numel", "elements that fit into memory", concat(numel, " of ", name_of(dtype)));
}

at::Tensor decode(const at::Tensor& message) {
  const Bytes bytes = bytes_of(message, "message");
  py::gil_scoped_release no_gil;
  uint64_t numel = 0;
  const wire::Message parsed = check_message(bytes, &numel);
  at::Tensor out = claimed_tensor(numel, parsed.header.dtype);
  decode_message(parsed, view_of(out, "out"));
  return out;
}

/// Copies of the state vectors by name.
template <class End>
std::map<std::string, at::Tensor> state_of(const End& end) {
  std::map<std::string, at::Tensor> out;
  const StateVectors& vectors = end.state();
  for (size_t i = 0; i < vectors.size(); ++i) {
    out.emplace(vectors.names()[i], copy_of(vectors.views()[i]));
  }
  return out;
}

template <class End>
void load_state(End& end, const std::map<std::string, at::Tensor>& state, uint64_t step) {
  const auto& names = end.state().names();
  for (const bool write : {false, true}) {  // everything is checked before anything is changed
    for (size_t i = 0; i < names.size(); ++i) {
      const View view = end.state().views()[i];
      const auto found = state.find(names[i]);
      if (found == state.end()) throw ArgumentError(concat("state: expected '", names[i], "', not there"));
      const View given = view_of(found->second, names[i].c_str());
      if (given.numel != view.numel || given.dtype != view.dtype)
        throw ArgumentError(concat("state '", names[i], "': expected ", view.numel, " elements of ",
                                   name_of(view.dtype), ", got ", given.numel, " of ", name_of(given.dtype)));
      if (write && view.numel) std::memcpy(view.data, given.data, view.numel * size_of(view.dtype));
    }
  }
  end.set_step(step);
}

}  // namespace

void bind_endpoints(py::module_& m) {
  py::class_<Sender>(m, "Sender")
      .def(py::init(&make_sender), py::arg("spec"), py::arg("numel"), py::arg("rank"), py::arg("world_size"),
           py::arg("dtype"), py::arg("seed"), py::arg("smoothness"))
      .def("send", &send, py::arg("gradient"), py::arg("policy") = nullptr, py::arg("price") = 0.0)
      .def_property_readonly("choice", &choice_of)
      .def("state", &state_of<Sender>)
      .def("load_state", &load_state<Sender>)
      .def_property("rates", &Sender::rates, &Sender::set_rates)
      .def_property_readonly("level", &Sender::level)
      .def_property_readonly("step", &Sender::step);
  py::class_<Receiver>(m, "Receiver")
      .def(py::init([](const std::string& spec, int64_t numel, int64_t world_size, at::ScalarType type, uint64_t seed,
                       const std::vector<std::shared_ptr<Smoothness>>& smoothness) {
             return Receiver(make_config(spec, numel, world_size, type, seed, smoothness));
           }),
           py::arg("spec"), py::arg("numel"), py::arg("world_size"), py::arg("dtype"), py::arg("seed"),
           py::arg("smoothness"))
      .def("receive", &receive)
      .def("state", &state_of<Receiver>)
      .def("load_state", &load_state<Receiver>)
      .def_property_readonly("step", &Receiver::step);
  m.def("encode", &encode, py::arg("spec"), py::arg("x"), py::arg("seed"), py::arg("step"), py::arg("rank"),
        py::arg("world_size") = 1);
  m.def("decode", &decode, py::arg("message"));
  m.def("stated_length", [](const at::Tensor& message) { return wire::stated_length(bytes_of(message, "message")); });
}

}  // namespace tsq
