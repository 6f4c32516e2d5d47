#include "hook/comm_hook.h"

#include "common/error.h"
#include "common/torch_dtype.h"
#include "exchange/process_group.h"
#include "hook/agreement.h"
#include "mechanisms/registry.h"

namespace tsq {

namespace {

/// The mechanism of a parameter's spec; ArgumentError if its budget is not for as many elements, or if it asks for a
/// smoothness, which a hook does not give.
MechanismPtr mechanism_of(const std::string& spec, size_t numel) {
  MechanismPtr mechanism = parse_mechanism(spec);
  if (const char* const kind = mechanism->lacks_smoothness())
    throw ArgumentError(
        concat("spec: expected one without smoothness='", kind, "': a hook has none to give, got ", spec));
  mechanism->check_numel(numel);
  return mechanism;
}

using c10::ivalue::Future;

DType dtype_of(const at::Tensor& tensor, const std::string& name) {
  const auto dtype = to_dtype(tensor.scalar_type());
  if (!dtype)
    throw ArgumentError(concat("parameter ", name, ": expected dtype float32, float64, float16 or bfloat16, got ",
                               tensor.scalar_type()));
  return *dtype;
}

std::vector<Parameter> to_parameters(const std::vector<HookParameter>& given, bool plannable) {
  std::vector<Parameter> out;
  for (const HookParameter& p : given) {
    if (!p.tensor.device().is_cpu())
      throw ArgumentError(concat("parameter ", p.name, ": expected device cpu, got ", p.tensor.device().str(),
                                 "; kernels for other devices do not exist yet"));
    const auto numel = static_cast<size_t>(p.tensor.numel());
    out.push_back({p.name, numel, dtype_of(p.tensor, p.name), mechanism_of(p.up, numel), mechanism_of(p.down, numel)});
    for (const auto& [up, down] : p.coarser)
      out.back().coarser.emplace_back(mechanism_of(up, numel), mechanism_of(down, numel));
  }
  if (plannable) Planner::make_plannable(out);
  return out;
}

Facts facts_of(const std::vector<HookParameter>& parameters, const HookConfig& config, const Exchange& exchange) {
  static constexpr const char* kExchangeNames[] = {"dense", "all_gather", "sharded"};
  Facts facts = {
      {"version", concat(wire::kVersion)},    {"world size", concat(exchange.size())},
      {"config", config.fingerprint},         {"exchange", kExchangeNames[static_cast<int>(config.averager.exchange)]},
      {"seed", concat(config.averager.seed)}, {"parameters", concat(parameters.size())}};
  for (size_t i = 0; i < parameters.size(); ++i) {
    const HookParameter& p = parameters[i];
    facts.emplace_back(concat("parameter ", i), concat(p.name, " ", p.tensor.sizes(), " ", p.tensor.scalar_type(),
                                                       " up ", p.up, " down ", p.down));
    for (const auto& [up, down] : p.coarser)
      facts.emplace_back(concat("ladder of ", p.name), concat("up ", up, " down ", down));
  }
  return facts;
}

/// A tensor of more dimensions is a matrix of its first one and all others, where that is its order in memory.
std::vector<MatrixShape> shapes_of(const std::vector<HookParameter>& parameters) {
  std::vector<MatrixShape> shapes(parameters.size());
  for (size_t i = 0; i < shapes.size(); ++i) {
    const at::Tensor& t = parameters[i].tensor;
    if (t.dim() < 2 || t.numel() == 0 || !t.is_contiguous()) continue;
    shapes[i] = {static_cast<size_t>(t.size(0)), static_cast<size_t>(t.numel() / t.size(0))};
  }
  return shapes;
}

std::unique_ptr<Exchange> agreed(std::unique_ptr<Exchange> exchange, const std::vector<HookParameter>& parameters,
                                 const HookConfig& config) {
  agree(*exchange, "attach", facts_of(parameters, config, *exchange));
  return exchange;
}

View view_of(const at::Tensor& tensor) {
  return {tensor.mutable_data_ptr(), dtype_of(tensor, "of a bucket"), static_cast<size_t>(tensor.numel())};
}

}  // namespace

namespace {
std::atomic<bool> ending{false};
}  // namespace

void process_is_ending() { ending = true; }

Hook::Hook(const std::vector<HookParameter>& parameters, const HookConfig& config, std::unique_ptr<Exchange> exchange)
    : averager_(to_parameters(parameters, config.smoothness.has_value()), config.averager,
                agreed(std::move(exchange), parameters, config)) {
  if (config.smoothness) follow(parameters, *config.smoothness);
  if (config.rotation && config.averager.never_slower)
    throw ArgumentError("smoothness: expected no kronecker beside NeverSlower: dense buckets would be turned too");
  if (config.rotation) rotation_ = std::make_unique<Rotation>(*config.rotation, averager_, shapes_of(parameters));
  for (size_t i = 0; i < parameters.size(); ++i)
    numbers_.emplace(parameters[i].tensor.unsafeGetTensorImpl(), static_cast<uint32_t>(i));
}

void Hook::follow(const std::vector<HookParameter>& parameters, const PlannerConfig& config) {
  if (config.kind == RunningKind::kSecant)
    for (const HookParameter& p : parameters) {
      if (!p.tensor.is_non_overlapping_and_dense())
        throw ArgumentError(concat("smoothness: Running('secant') expects parameters without gaps, got strides ",
                                   p.tensor.strides(), " for ", p.name));
      positions_.push_back(p.tensor);
    }
  const auto position = [this](uint32_t id) {
    const at::Tensor& tensor = positions_[id];  // in the order of its memory, in which DDP lays out the gradient too
    return ConstView{tensor.const_data_ptr(), dtype_of(tensor, averager_.parameters()[id].name),
                     static_cast<size_t>(tensor.numel())};
  };
  averager_.follow(std::make_unique<Planner>(config, averager_.parameters(), position));
  averager_.plan([](const Planner&, const auto&) {});
}

std::vector<uint32_t> Hook::identify(c10d::GradBucket& bucket) const {
  if (bucket.getBufferRef().is_sparse())
    throw std::runtime_error(
        "torch_smoothquant: a bucket holds a sparse gradient, which is not supported: use nn.Embedding(sparse=False)");
  std::vector<uint32_t> ids;
  const std::vector<at::Tensor> parameters = bucket.getParameters();
  ids.reserve(parameters.size());
  for (const at::Tensor& p : parameters) {
    const auto found = numbers_.find(p.unsafeGetTensorImpl());
    if (found == numbers_.end())
      throw std::runtime_error("torch_smoothquant: a bucket holds a parameter that the model did not have at attach");
    ids.push_back(found->second);
  }
  return ids;
}

c10::intrusive_ptr<Future> Hook::run(c10d::GradBucket& bucket) {
  auto future = c10::make_intrusive<Future>(c10::TensorType::get(), std::vector<c10::Device>{});
  try {
    // The bucket lives on the caller's stack: what the worker needs is copied out, the buffer by reference.
    const at::Tensor buffer = bucket.getBufferRef();
    const BucketPlace place{averager_.config().clock(), bucket.isLast()};
    pipeline_.submit([this, buffer, place, ids = identify(bucket)] { average(ids, view_of(buffer), place); },
                     [future, buffer](const std::exception_ptr& error) {
                       if (ending) return;
                       if (error)
                         future->setErrorIfNeeded(error);
                       else
                         future->markCompleted(buffer);
                     });
  } catch (...) {  // out of runHook an exception would leave the Reducer in pieces
    future->setErrorIfNeeded(std::current_exception());
  }
  return future;
}

void Hook::average(std::span<const uint32_t> ids, View buffer, const BucketPlace& place) {
  if (rotation_)
    rotation_->average(averager_, ids, buffer);
  else
    averager_.average(ids, buffer, place);
}

void Hook::scale_state(double factor) {
  between_buckets([&](Averager& averager) {
    averager.scale_state(factor);
    if (rotation_) rotation_->scale(factor);
  });
}

void Hook::between_buckets(const std::function<void(Averager&)>& task) {
  pipeline_.run([&] { task(averager_); });
}

void Hook::together(const std::function<void(Averager&)>& task) {
  between_buckets([&](Averager& averager) {
    try {
      task(averager);
    } catch (const ArgumentError&) {
      throw;
    } catch (const std::exception& e) {
      pipeline_.poison(e.what());
      throw;
    }
  });
}

void Hook::set_enabled(bool enabled) {
  together([&](Averager& averager) {
    agree(averager.exchange(), "set_enabled", {{"enabled", enabled ? "True" : "False"}});
    averager.set_enabled(enabled);
  });
  enabled_ = enabled;
}

void Hook::set_specs(const std::vector<std::pair<std::string, std::string>>& specs) {
  if (specs.size() != averager_.parameters().size())
    throw ArgumentError(
        concat("set_spec: expected ", averager_.parameters().size(), " pairs of specs, got ", specs.size()));
  std::vector<std::pair<MechanismPtr, MechanismPtr>> mechanisms;
  Facts facts;
  for (size_t i = 0; i < specs.size(); ++i) {
    const size_t numel = averager_.parameters()[i].numel;
    mechanisms.emplace_back(mechanism_of(specs[i].first, numel), mechanism_of(specs[i].second, numel));
    facts.emplace_back(averager_.parameters()[i].name, concat("up ", specs[i].first, " down ", specs[i].second));
  }
  together([&](Averager& averager) {
    agree(averager.exchange(), "set_spec", facts);
    averager.set_mechanisms(std::move(mechanisms));
  });
}

std::shared_ptr<Hook> make_hook(const std::vector<HookParameter>& parameters, const HookConfig& config,
                                c10::intrusive_ptr<c10d::ProcessGroup> group, std::chrono::milliseconds timeout) {
  return std::make_shared<Hook>(parameters, config, make_process_group_exchange(std::move(group), timeout));
}

}  // namespace tsq
