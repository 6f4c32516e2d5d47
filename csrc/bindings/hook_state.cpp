// A hook's state in and out, as tensors by name.
#include "bindings/module.h"

#include <algorithm>
#include <array>

#include "common/error.h"
#include "hook/checkpoint.h"
#include "hook/comm_hook.h"

namespace py = pybind11;

namespace tsq {

namespace {

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

using Measured = std::array<double, 6>;

/// What the policy's MeasuredCost has learnt on this rank, or (`mean`: collective) on all of them; none without one.
std::optional<Measured> measured(Hook& hook, bool mean) {
  std::optional<Measured> out;
  hook.between_buckets([&](Averager& averager) {
    const MeasuredCost* const cost = averager.tuner().measured();
    if (!cost) return;
    const MeasuredCost::State s = mean ? mean_of(cost->state(), averager.exchange()) : cost->state();
    out = {s.samples, s.weight, s.mean_bytes, s.mean_seconds, s.variance, s.covariance};
  });
  return out;
}

/// Nothing where there is no MeasuredCost.
void set_measured(Hook& hook, const Measured& m) {
  hook.between_buckets([&](Averager& averager) {
    if (MeasuredCost* const cost = averager.tuner().measured()) cost->set_state({m[0], m[1], m[2], m[3], m[4], m[5]});
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

void bind_hook_state(py::class_<Hook, std::shared_ptr<Hook>>& hook) {
  using no_gil = py::call_guard<py::gil_scoped_release>;
  hook.def("state", &state, no_gil())
      .def("load_state", &load_state, no_gil())
      .def("whole_state", &whole_state, no_gil())
      .def("load_whole_state", &load_whole_state, no_gil())
      .def("running_state", &running_state, no_gil())
      .def("load_running_state", &load_running_state, no_gil())
      .def("measured", &measured, no_gil(), py::arg("mean"))
      .def("set_measured", &set_measured, no_gil())
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
          no_gil());
}

}  // namespace tsq
