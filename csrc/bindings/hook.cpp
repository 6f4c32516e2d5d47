// Hook: attach to a Reducer, or be called from a Python hook; what it tells of itself.
#include "bindings/module.h"

#include <torch/csrc/jit/python/pybind_utils.h>

#include <algorithm>
#include <torch/csrc/distributed/c10d/GroupRegistry.hpp>
#include <torch/csrc/distributed/c10d/reducer.hpp>

#include "common/checksum.h"
#include "common/error.h"
#include "hook/agreement.h"
#include "hook/comm_hook.h"

namespace py = pybind11;

namespace tsq {

namespace {

ExchangeKind exchange_kind(const std::string& name) {
  for (int kind = 0; kind < kExchangeKinds; ++kind)
    if (name == name_of(static_cast<ExchangeKind>(kind))) return static_cast<ExchangeKind>(kind);
  throw ArgumentError(concat("exchange: expected 'dense', 'all_gather' or 'sharded', got '", name, "'"));
}

using SpecPair = std::pair<std::string, std::string>;  // (up, down)
/// (name, parameter, up, down, coarser levels of a ladder)
using ParameterTuple = std::tuple<std::string, at::Tensor, std::string, std::string, std::vector<SpecPair>>;

/// (kind, metric, decay, floor, warmup, interval, largest_side)
using RunningTuple = std::tuple<std::string, std::string, double, double, uint64_t, uint64_t, size_t>;

PlannerConfig planner_config(const RunningTuple& given) {
  const auto& [kind, metric, decay, floor, warmup, interval, side] = given;
  PlannerConfig config{.decay = decay, .floor = floor, .warmup = warmup, .interval = interval};
  if (kind == "secant") config.kind = RunningKind::kSecant;
  if (kind == "hutchinson") config.kind = RunningKind::kGiven;
  if (metric == "adam") config.metric = Metric::kAdam;
  return config;
}

std::shared_ptr<Hook> make(const std::vector<ParameterTuple>& parameters, const std::string& group_name,
                           const std::string& exchange, uint64_t seed, bool hold_unused, double timeout_seconds,
                           const std::string& fingerprint, const std::optional<RunningTuple>& smoothness,
                           const std::shared_ptr<Cat>& policy, const std::map<std::string, at::Tensor>& weights,
                           const std::optional<std::tuple<double, double, size_t>>& never_slower) {
  std::vector<HookParameter> list;
  for (const auto& [name, tensor, up, down, coarser] : parameters) list.push_back({name, tensor, up, down, coarser});
  HookConfig config;
  config.averager.exchange = exchange_kind(exchange);
  config.averager.seed = seed;
  config.averager.hold_unused = hold_unused;
  config.averager.policy = policy;
  if (!weights.empty())
    for (const HookParameter& p : list) {
      const auto found = weights.find(p.name);
      config.averager.weights.push_back(found == weights.end() ? nullptr : weights_of(found->second, found->first));
    }
  if (never_slower) {
    NeverSlowerConfig& limits = config.averager.never_slower.emplace();
    std::tie(limits.max_error, limits.min_gain, limits.usable) = *never_slower;
  }
  config.fingerprint = fingerprint;
  if (smoothness && std::get<0>(*smoothness) == "kronecker")
    config.rotation = RotationConfig{.decay = std::get<2>(*smoothness),
                                     .warmup = std::get<4>(*smoothness),
                                     .interval = std::get<5>(*smoothness),
                                     .largest_side = std::get<6>(*smoothness)};
  else if (smoothness)
    config.smoothness = planner_config(*smoothness);
  const std::chrono::milliseconds timeout(static_cast<int64_t>(timeout_seconds * 1000));
  auto hook = make_hook(list, config, c10d::resolve_process_group(group_name), timeout);
  // The last owner may hold Python's lock while a callback of a queued bucket's future waits
  // for it: give it up to join the worker.
  return {hook.get(), [hook](Hook*) mutable {
            if (Py_IsInitialized() && PyGILState_Check()) {
              py::gil_scoped_release no_gil;
              hook.reset();
            } else {
              hook.reset();
            }
          }};
}

py::dict stats(const Hook& hook) {
  const AveragerStats s = hook.stats();
  py::dict seconds, out;
  seconds["encode"] = s.encode_seconds;
  seconds["exchange"] = s.exchange_seconds;
  seconds["decode"] = s.decode_seconds;
  out["calls"] = s.calls;
  out["dense_calls"] = s.dense_calls;
  out["wire_bytes"] = s.traffic.wire_bytes;
  out["handed_bytes"] = s.traffic.handed_bytes;
  out["collectives"] = s.traffic.collectives;
  out["dense_bytes"] = s.dense_bytes;
  out["non_finite"] = s.non_finite;
  out["sent"] = s.sent;
  out["skipped"] = s.skipped;
  out["levels"] = s.levels;
  out["state_bytes"] = s.state_bytes;
  out["buffer_bytes"] = s.buffer_bytes;
  out["seconds"] = seconds;
  out["error"] = hook.error();
  return out;
}

/// [(kind, level) by bucket]
std::vector<std::pair<std::string, uint32_t>> choices(const Plan& plan) {
  std::vector<std::pair<std::string, uint32_t>> out;
  for (const Choice& c : plan) out.emplace_back(name_of(c.kind), c.level);
  return out;
}

/// What the policy thinks, as plain values; None without one.
py::object policy(const Hook& hook) {
  const std::optional<PolicyReport> report = hook.policy();
  if (!report) return py::none();
  py::dict out, costs;
  py::list alternatives;
  for (const Alternative& a : report->alternatives) {
    py::dict d;
    d["plan"] = choices(a.plan);
    d["span"] = a.span;
    d["measured"] = a.measured;
    d["barred"] = a.barred;
    alternatives.append(d);
  }
  for (int kind = 0; kind < kExchangeKinds; ++kind) {
    const PolicyReport::Cost& c = report->costs[kind];
    if (c.measured)
      costs[name_of(static_cast<ExchangeKind>(kind))] = py::dict(py::arg("c0") = c.c0, py::arg("c1") = c.c1);
  }
  out["plan"] = choices(report->plan);
  out["on_trial"] = report->on_trial;
  out["alternatives"] = alternatives;
  out["usable"] = report->usable;
  out["step_seconds"] = report->step;
  out["trials"] = report->trials;
  out["regimes"] = report->regimes;
  out["costs"] = costs;
  out["reason"] = report->reason;
  return out;
}

/// {parameter: what can be watched of it}
std::map<std::string, py::dict> watched(const Hook& hook) {
  std::map<std::string, py::dict> out;
  const std::vector<Watched> all = hook.watched();
  for (size_t i = 0; i < all.size(); ++i) {
    const Watched& w = all[i];
    py::dict d;
    d["sent"] = w.sent;
    d["skipped"] = w.skipped;
    d["up_bytes"] = w.up_bytes;
    d["down_bytes"] = w.down_bytes;
    d["levels"] = w.levels;
    d["gradient_sq"] = w.gradient;
    d["wanted_sq"] = w.wanted;
    d["left_sq"] = w.left;
    d["bits"] = w.bits;
    d["weight"] = w.weight;
    out.emplace(hook.parameters()[i].name, std::move(d));
  }
  return out;
}

/// Collective: every rank must give the same numbers.
void update_smoothness(Hook& hook, const std::map<std::string, at::Tensor>& diagonals) {
  hook.together([&](Averager& averager) {
    if (!averager.planner()) throw ArgumentError("update_smoothness: expected a hook with smoothness=Running(...)");
    Facts facts;
    for (const auto& [name, tensor] : diagonals) {
      const View v = view_of(tensor, name.c_str());
      const Bytes bytes{v.as<uint8_t>(), v.numel * size_of(v.dtype)};
      facts.emplace_back(name, concat(v.numel, " numbers with checksum ", checksum(bytes, 0)));
    }
    agree(averager.exchange(), "update_smoothness", facts);
    for (uint32_t i = 0; i < averager.parameters().size(); ++i)
      if (const auto found = diagonals.find(averager.parameters()[i].name); found != diagonals.end())
        averager.planner()->give(i, view_of(found->second, found->first.c_str()));
  });
}

}  // namespace

void bind_hook(py::module_& m) {
  using no_gil = py::call_guard<py::gil_scoped_release>;
  py::module_::import("atexit").attr("register")(py::cpp_function(&process_is_ending));
  py::class_<Hook, std::shared_ptr<Hook>> hook(m, "Hook");
  bind_hook_state(hook);
  hook.def(py::init(&make), no_gil(), py::arg("parameters"), py::arg("group_name"), py::arg("exchange"),
           py::arg("seed"), py::arg("hold_unused"), py::arg("timeout"), py::arg("fingerprint"),
           py::arg("smoothness") = py::none(), py::arg("policy") = nullptr,
           py::arg("weights") = std::map<std::string, at::Tensor>(), py::arg("never_slower") = py::none())
      .def("update_smoothness", &update_smoothness, no_gil())
      .def(
          "register",
          [](const std::shared_ptr<Hook>& hook, const std::shared_ptr<c10d::Reducer>& reducer) {
            reducer->register_comm_hook(std::make_unique<ReducerHook>(hook));
          },
          no_gil())
      .def(
          "run",
          [](Hook& hook, c10d::GradBucket& bucket) {
            return std::make_shared<torch::jit::PythonFutureWrapper>(hook.run(bucket));
          },
          no_gil())
      .def("stats", &stats)
      .def("watched", &watched)
      .def("policy", &policy)
      .def("allow_levels", &Hook::allow_levels)
      .def("parameter_names",
           [](const Hook& hook) {
             std::vector<std::string> names;
             for (const Parameter& p : hook.parameters()) names.push_back(p.name);
             return names;
           })
      .def("set_specs", &Hook::set_specs, no_gil())
      .def("scale_state", &Hook::scale_state, no_gil())
      .def("set_enabled", &Hook::set_enabled, no_gil())
      .def("close", &Hook::close, no_gil())
      .def_property_readonly("enabled", &Hook::enabled)
      .def_property_readonly("rank", &Hook::rank)
      .def_property_readonly("world_size", &Hook::world_size);
}

}  // namespace tsq
