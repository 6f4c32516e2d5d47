// Cost models and CAT.
#include "policy/cat.h"

#include "bindings/module.h"
#include "common/error.h"
#include "mechanisms/registry.h"

namespace py = pybind11;

namespace tsq {

namespace {

Unit unit_of(const std::string& name) {
  for (const Unit unit : {Unit::kBits, Unit::kBytes, Unit::kSeconds})
    if (name == name_of(unit)) return unit;
  throw ArgumentError(concat("AffineCost: unit: expected 'bits', 'bytes' or 'seconds', got '", name, "'"));
}

Horizon horizon_of(const std::string& name) {
  if (name == "step") return Horizon::kStep;
  if (name == "run") return Horizon::kRun;
  throw ArgumentError(concat("CAT: horizon: expected 'step' or 'run', got '", name, "'"));
}

std::shared_ptr<Cat> make_cat(std::shared_ptr<CostModel> cost, std::optional<double> budget, double speed,
                              const std::optional<at::Tensor>& weights, const std::string& horizon) {
  return std::make_shared<Cat>(Cat::Config{std::move(cost), budget, speed,
                                           weights ? weights_of(*weights, "CAT: smoothness") : nullptr,
                                           horizon_of(horizon)});
}

}  // namespace

Weights weights_of(const at::Tensor& tensor, const std::string& name) {
  const View view = view_of(tensor, name.c_str());
  if (view.dtype != DType::kFloat64) throw ArgumentError(concat(name, ": expected float64, got ", name_of(view.dtype)));
  const double* const first = view.as<double>();
  return std::make_shared<const std::vector<double>>(first, first + view.numel);
}

void bind_policy(py::module_& m) {
  py::class_<CostModel, std::shared_ptr<CostModel>>(m, "CostModel")
      .def_property_readonly("unit", [](const CostModel& c) { return name_of(c.unit()); });
  py::class_<BitCost, CostModel, std::shared_ptr<BitCost>>(m, "BitCost").def(py::init<>());
  py::class_<PacketCost, CostModel, std::shared_ptr<PacketCost>>(m, "PacketCost")
      .def(py::init([](double payload, double packet, double message, bool straddle) {
        return PacketCost({payload, packet, message, straddle});
      }));
  py::class_<AffineCost, CostModel, std::shared_ptr<AffineCost>>(m, "AffineCost")
      .def(py::init([](double c0, double c1, const std::string& unit) { return AffineCost(c0, c1, unit_of(unit)); }));
  py::class_<MeasuredCost, CostModel, std::shared_ptr<MeasuredCost>>(m, "MeasuredCost")
      .def(py::init([](double c0, double c1, double keep) {
        return std::make_shared<MeasuredCost>(MeasuredCost::Config{{c0, c1}, keep});
      }))
      .def("observe", &MeasuredCost::observe)
      .def("fit",
           [](const MeasuredCost& c) {
             const Line line = c.fit();
             return std::pair(line.c0, line.c1);
           })
      .def("seconds", &MeasuredCost::seconds)
      .def_property(
          "state",
          [](const MeasuredCost& c) {
            const MeasuredCost::State s = c.state();
            return py::make_tuple(s.samples, s.weight, s.mean_bytes, s.mean_seconds, s.variance, s.covariance);
          },
          [](MeasuredCost& c, const std::array<double, 6>& s) {
            c.set_state({s[0], s[1], s[2], s[3], s[4], s[5]});
          })
      .def_property_readonly("samples", &MeasuredCost::samples);
  py::class_<Cat, std::shared_ptr<Cat>>(m, "Cat")
      .def(py::init(&make_cat), py::arg("cost"), py::arg("budget"), py::arg("speed"), py::arg("weights"),
           py::arg("horizon") = "step")
      .def("next_price", &Cat::next_price, py::arg("price"), py::arg("spent"), py::arg("energy"),
           py::arg("share") = 1.0);
  m.def("takes_chooser", [](const std::string& text) { return parse_mechanism(text)->takes_chooser(); });
}

}  // namespace tsq
