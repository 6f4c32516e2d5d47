// The spec grammar for Python: text -> nested plain objects, validation, and the open questions one may ask a
// compressor.
#include "bindings/module.h"
#include "common/error.h"
#include "compressors/registry.h"
#include "mechanisms/registry.h"
#include "mechanisms/theory.h"

namespace py = pybind11;

namespace tsq {

namespace {

/// A call becomes (name, [(argument name or "", value), ...]); everything else the Python object it looks like.
py::object to_python(const Value& value) {
  switch (value.kind) {
    case Value::Kind::kNone:
      return py::none();
    case Value::Kind::kBool:
      return py::bool_(value.boolean);
    case Value::Kind::kInt:
      return py::int_(value.integer);
    case Value::Kind::kFloat:
      return py::float_(value.number);
    case Value::Kind::kString:
      return py::str(value.text);
    case Value::Kind::kList: {
      py::list items;
      for (const Value& item : value.items) items.append(to_python(item));
      return items;
    }
    case Value::Kind::kCall:
      break;
  }
  py::list arguments;
  for (const Argument& a : value.arguments) arguments.append(py::make_tuple(a.name, to_python(a.value)));
  return py::make_tuple(value.text, std::move(arguments));
}

const Compressor& compressor_in(const MechanismPtr& mechanism) { return mechanism->compressor(); }

}  // namespace

void bind_spec(py::module_& m) {
  m.def("parse", [](const std::string& text) {
    canonical_spec(text);  // throws: the whole meaning, not the shape alone
    return to_python(parse_expression(text));
  });
  m.def("canonical", [](const std::string& text) { return canonical_spec(text); });
  m.def(
      "class_of",
      [](const std::string& text, size_t n, uint32_t world_size) {
        if (world_size == 0) throw ArgumentError("world_size: expected 1 or more, got 0");
        const Class c = compressor_in(parse_mechanism(text)).class_of(n, world_size);
        return py::make_tuple(c.omega, c.alpha);
      },
      py::arg("text"), py::arg("n"), py::arg("world_size") = 1);
  m.def("three_point",
        [](const std::string& text, size_t n, uint32_t world_size) -> std::optional<std::pair<double, double>> {
          const auto found = parse_mechanism(text)->three_point(n, world_size);
          if (!found) return std::nullopt;
          return std::pair(found->A, found->B);
        });
  m.def("safe_step", [](const std::string& text, double l_minus, double l_plus, size_t n, uint32_t world_size,
                        double mu) { return safe_step(*parse_mechanism(text), l_minus, l_plus, n, world_size, mu); });
  m.def("scaled_to_contract", [](const std::string& text, size_t n, uint32_t world_size) {
    return scaled_to_contract(*parse_compressor(text), n, world_size);
  });
  m.def("state_counts", [](const std::string& text) {
    const MechanismPtr mechanism = parse_mechanism(text);
    return std::pair(mechanism->state_names().size(), mechanism->receiver_names().size());
  });
  m.def("expected_bits", [](const std::string& text, size_t n, at::ScalarType type) {
    return parse_mechanism(text)->expected_bits(n, dtype_of(type));
  });
  m.def("max_bytes", [](const std::string& text, size_t n, at::ScalarType type) {
    return compressor_in(parse_mechanism(text)).max_bytes(n, dtype_of(type));
  });
}

}  // namespace tsq
