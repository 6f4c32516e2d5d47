// Hook: attach to a Reducer, or be called from a Python hook; state in and out as tensors.
#include "bindings/module.h"

#include <torch/csrc/jit/python/pybind_utils.h>

#include <algorithm>
#include <torch/csrc/distributed/c10d/GroupRegistry.hpp>
#include <torch/csrc/distributed/c10d/reducer.hpp>

#include "common/error.h"
#include "hook/agreement.h"
#include "hook/checkpoint.h"
#include "hook/comm_hook.h"

namespace py = pybind11;

namespace tsq {

namespace {

ExchangeKind exchange_kind(const std::string& name) {
  if (name == "dense") return ExchangeKind::kDense;
  if (name == "all_gather") return ExchangeKind::kAllGather;
  if (name == "sharded") return ExchangeKind::kSharded;
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
                           const std::shared_ptr<Cat>& policy,
                           const std::optional<std::pair<double, double>>& never_slower) {
  std::vector<HookParameter> list;
  for (const auto& [name, tensor, up, down, coarser] : parameters) list.push_back({name, tensor, up, down, coarser});
  HookConfig config;
  config.averager.exchange = exchange_kind(exchange);
  config.averager.seed = seed;
  config.averager.hold_unused = hold_unused;
  config.averager.policy = policy;
  if (never_slower) {
    config.averager.never_slower.emplace();
    std::tie(config.averager.never_slower->max_error, config.averager.never_slower->min_gain) = *never_slower;
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
  out["step_seconds"] = report->step;
  out["trials"] = report->trials;
  out["regimes"] = report->regimes;
  out["costs"] = costs;
  out["reason"] = report->reason;
  return out;
}

/// A state vector by (parameter's name, side, vector's name).
using StateKey = std::tuple<std::string, std::string, std::string>;

StateKey key_of(const Averager& averager, const StateRef& ref) {
  return {averager.parameters()[ref.parameter].name, name_of(ref.side), ref.name};
}

/// (steps, fresh, the worker's rates, the owner's rates)
using ProgressTuple = std::tuple<uint64_t, bool, std::vector<double>, std::vector<double>>;

/// {key: (begin, values)}
using Vectors = std::map<StateKey, std::pair<size_t, at::Tensor>>;
using StateTuple = std::pair<Vectors, std::map<std::string, ProgressTuple>>;

void check_whole(Averager& averager) {
  if (averager.torn())
    throw std::runtime_error(
        "state_dict: a step broke off when some of this rank's state had moved on: load the "
        "last checkpoint");
}

std::map<std::string, ProgressTuple> progress_of(Averager& averager) {
  std::map<std::string, ProgressTuple> out;
  for (uint32_t i = 0; i < averager.parameters().size(); ++i) {
    const Progress& p = averager.states().progress(i);
    out.emplace(averager.parameters()[i].name, ProgressTuple{p.steps, p.fresh, p.rates[0], p.rates[1]});
  }
  return out;
}

StateTuple state(Hook& hook) {
  StateTuple out;
  hook.between_buckets([&](Averager& averager) {
    check_whole(averager);
    for (const StateRef& ref : averager.states().all())
      out.first.emplace(key_of(averager, ref), std::make_pair(ref.begin, copy_of(ref.view)));
    out.second = progress_of(averager);
  });
  return out;
}

/// The state of all ranks, whole vectors, workers' by their mean. Collective.
StateTuple whole_state(Hook& hook) {
  StateTuple out;
  hook.together([&](Averager& averager) {
    check_whole(averager);
    for (const WholeVector& v : mean_state(averager.states(), averager.parameters(), averager.exchange())) {
      const StateRef ref{v.parameter, v.side, v.name, 0, v.values.view()};
      out.first.emplace(key_of(averager, ref), std::make_pair(size_t{0}, copy_of(ref.view)));
    }
    out.second = progress_of(averager);
    for (auto& [name, progress] : out.second) std::get<2>(progress) = std::get<3>(progress) = {};  // rates are a rank's
  });
  return out;
}

Side side_of(const std::string& name) {
  for (int side = 0; side < kSides; ++side)
    if (name == name_of(static_cast<Side>(side))) return static_cast<Side>(side);
  throw ArgumentError(
      concat("state_dict: expected a vector of worker, received, owner or delivered, got '", name, "'"));
}

void load_progress(Averager& averager, const std::map<std::string, ProgressTuple>& progress, bool write) {
  for (uint32_t i = 0; i < averager.parameters().size(); ++i) {
    const auto found = progress.find(averager.parameters()[i].name);
    if (found == progress.end())
      throw ArgumentError(concat("state_dict: expected steps of ", averager.parameters()[i].name, ", not there"));
    const auto& [steps, fresh, up_rates, down_rates] = found->second;
    if (write) averager.states().progress(i) = {steps, fresh, {up_rates, down_rates}};
  }
}

void load_whole_state(Hook& hook, const Vectors& vectors, const std::map<std::string, ProgressTuple>& progress) {
  hook.between_buckets([&](Averager& averager) {
    std::map<std::string, uint32_t> numbers;
    for (uint32_t i = 0; i < averager.parameters().size(); ++i) numbers[averager.parameters()[i].name] = i;
    load_progress(averager, progress, /*write=*/false);
    std::vector<WholeVector> whole;
    for (const auto& [key, value] : vectors) {
      const auto& [parameter, side, name] = key;
      const View given = view_of(value.second, name.c_str());
      WholeVector v{numbers.at(parameter), side_of(side), name, Buffer(given.numel, given.dtype)};
      if (given.numel) std::memcpy(v.values.view().data, given.data, given.numel * size_of(given.dtype));
      whole.push_back(std::move(v));
    }
    load_mean_state(std::move(whole), averager.states(), averager.parameters());
    load_progress(averager, progress, /*write=*/true);
  });
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

void load_all_owed(Averager& averager, const Vectors& vectors, bool write) {
  for (uint32_t i = 0; i < averager.parameters().size(); ++i) {
    const std::string& name = averager.parameters()[i].name;
    const auto found = vectors.find({name, name_of(Side::kWorker), kOwed});
    load_owed(i, name, found == vectors.end() ? View{} : view_of(found->second.second, kOwed), averager.states(),
              write);
  }
}

/// (steps, {parameter: what Planner::state says of it}), or none.
using RunningState = std::pair<uint64_t, std::map<std::string, at::Tensor>>;

std::optional<RunningState> running_state(Hook& hook) {
  std::optional<RunningState> out;
  hook.between_buckets([&](Averager& averager) {
    if (!averager.planner() && !hook.rotation()) return;
    Planner::Saved saved = hook.rotation() ? hook.rotation()->state() : averager.planner()->state();
    out.emplace(saved.steps, std::map<std::string, at::Tensor>());
    for (auto& [id, values] : saved.parameters)
      out->second.emplace(averager.parameters()[id].name, copy_of({values.data(), DType::kFloat64, values.size()}));
  });
  return out;
}

std::vector<double> doubles_of(const at::Tensor& tensor, const std::string& name) {
  const View given = view_of(tensor, name.c_str());
  if (given.dtype != DType::kFloat64)
    throw ArgumentError(concat("state_dict: running: ", name, ": expected float64, got ", name_of(given.dtype)));
  return {given.as<double>(), given.as<double>() + given.numel};
}

void load_running_state(Hook& hook, const RunningState& state) {
  hook.between_buckets([&](Averager& averager) {
    if (!averager.planner() && !hook.rotation())
      throw ArgumentError("state_dict: running: expected none, as there is no smoothness here");
    Planner::Saved saved{state.first, {}};
    for (uint32_t i = 0; i < averager.parameters().size(); ++i)
      if (const auto found = state.second.find(averager.parameters()[i].name); found != state.second.end())
        saved.parameters.emplace_back(i, doubles_of(found->second, found->first));
    if (hook.rotation()) return hook.rotation()->load(saved);
    averager.plan([&](Planner& planner, std::vector<Parameter>& parameters) { planner.load(saved, parameters); });
  });
}

/// Collective: every rank must give the same numbers.
void update_smoothness(Hook& hook, const std::map<std::string, at::Tensor>& diagonals) {
  hook.together([&](Averager& averager) {
    if (!averager.planner()) throw ArgumentError("update_smoothness: expected a hook with smoothness=Running(...)");
    Facts facts;
    for (const auto& [name, tensor] : diagonals) {
      const View v = view_of(tensor, name.c_str());
      uint64_t checksum = 0xCBF29CE484222325u;  // FNV-1a
      for (size_t i = 0; i < v.numel * size_of(v.dtype); ++i)
        checksum = (checksum ^ v.as<uint8_t>()[i]) * 0x100000001B3u;
      facts.emplace_back(name, concat(v.numel, " numbers with checksum ", checksum));
    }
    agree(averager.exchange(), "update_smoothness", facts);
    for (uint32_t i = 0; i < averager.parameters().size(); ++i)
      if (const auto found = diagonals.find(averager.parameters()[i].name); found != diagonals.end())
        averager.planner()->give(i, view_of(found->second, found->first.c_str()));
  });
}

/// Everything is checked before anything is changed.
void load_state(Hook& hook, const Vectors& vectors, const std::map<std::string, ProgressTuple>& progress) {
  hook.between_buckets([&](Averager& averager) {
    const std::vector<StateRef> refs = mechanisms_state(averager.states());
    const auto given = static_cast<size_t>(std::count_if(vectors.begin(), vectors.end(), [](const auto& vector) {
      return std::get<1>(vector.first) != name_of(Side::kWorker) || std::get<2>(vector.first) != kOwed;
    }));
    if (given != refs.size())
      throw ArgumentError(concat("state_dict: expected ", refs.size(), " state vectors, got ", given));
    for (const bool write : {false, true}) {
      for (const StateRef& ref : refs) {
        const auto [parameter, side, name] = key_of(averager, ref);
        const std::string shown = concat(parameter, ".", side, ".", name);
        const auto found = vectors.find({parameter, side, name});
        if (found == vectors.end()) throw ArgumentError(concat("state_dict: expected ", shown, ", not there"));
        const auto& [begin, tensor] = found->second;
        const View given = view_of(tensor, shown.c_str());
        if (begin != ref.begin || given.numel != ref.view.numel || given.dtype != ref.view.dtype)
          throw ArgumentError(concat("state_dict: ", shown, ": expected ", ref.view.numel, " elements of ",
                                     name_of(ref.view.dtype), " from ", ref.begin, ", got ", given.numel, " of ",
                                     name_of(given.dtype), " from ", begin));
        if (write) std::memcpy(ref.view.data, given.data, given.numel * size_of(given.dtype));
      }
      load_all_owed(averager, vectors, write);
      load_progress(averager, progress, write);
    }
  });
}

}  // namespace

void bind_hook(py::module_& m) {
  using no_gil = py::call_guard<py::gil_scoped_release>;
  py::module_::import("atexit").attr("register")(py::cpp_function(&process_is_ending));
  py::class_<Hook, std::shared_ptr<Hook>>(m, "Hook")
      .def(py::init(&make), no_gil(), py::arg("parameters"), py::arg("group_name"), py::arg("exchange"),
           py::arg("seed"), py::arg("hold_unused"), py::arg("timeout"), py::arg("fingerprint"),
           py::arg("smoothness") = py::none(), py::arg("policy") = nullptr, py::arg("never_slower") = py::none())
      .def("running_state", &running_state, no_gil())
      .def("load_running_state", &load_running_state, no_gil())
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
      .def("state", &state, no_gil())
      .def("load_state", &load_state, no_gil())
      .def("whole_state", &whole_state, no_gil())
      .def("load_whole_state", &load_whole_state, no_gil())
      .def("watched", &watched)
      .def("policy", &policy)
      .def("parameter_names",
           [](const Hook& hook) {
             std::vector<std::string> names;
             for (const Parameter& p : hook.parameters()) names.push_back(p.name);
             return names;
           })
      .def("set_specs", &Hook::set_specs, no_gil())
      .def(
          "price",
          [](Hook& hook) {
            double price = 0;
            hook.between_buckets([&](Averager& averager) { price = averager.tuner().price(); });
            return price;
          },
          no_gil())
      .def(
          "set_price",
          [](Hook& hook, double price) {
            hook.between_buckets([&](Averager& averager) { averager.tuner().set_price(price); });
          },
          no_gil())
      .def("scale_state", &Hook::scale_state, no_gil())
      .def("set_enabled", &Hook::set_enabled, no_gil())
      .def("close", &Hook::close, no_gil())
      .def_property_readonly("enabled", &Hook::enabled)
      .def_property_readonly("rank", &Hook::rank)
      .def_property_readonly("world_size", &Hook::world_size);
}

}  // namespace tsq
