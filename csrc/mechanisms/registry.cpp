#include "mechanisms/registry.h"

#include <limits>
#include <map>

#include "common/error.h"
#include "compressors/registry.h"
#include "mechanisms/ada3pc.h"
#include "mechanisms/adacgd.h"
#include "mechanisms/bidirectional.h"
#include "mechanisms/diana.h"
#include "mechanisms/direct.h"
#include "mechanisms/ef21.h"
#include "mechanisms/error_feedback.h"
#include "mechanisms/lazy.h"
#include "mechanisms/marina.h"
#include "mechanisms/three_pc.h"

namespace tsq {

namespace {

constexpr double kLargest = std::numeric_limits<double>::max();

MechanismPtr make_mechanism(std::string_view text, const Value& value);

/// The mechanism from arguments that are each in range; what it refuses of them together is an error of the spec.
template <class M, class... A>
MechanismPtr build(std::string_view text, const Value& call, const A&... arguments) {
  try {
    return std::make_shared<M>(arguments...);
  } catch (const SpecError&) {
    throw;
  } catch (const ArgumentError& e) {
    throw_spec(text, call.column, e.what());
  }
}

Init init_of(Arguments& arguments) {
  const auto init = arguments.choice("init", {"dense", "zero"});
  return init && *init == "zero" ? Init::kZero : Init::kDense;
}

double required(const Value& call, std::string_view text, const char* name, std::optional<double> value) {
  if (!value) throw_spec(text, call.column, concat(call.text, " needs an argument '", name, "'"));
  return *value;
}

template <class M>
MechanismPtr make_around(std::string_view text, const Value& call) {
  Arguments arguments(text, call, {"compressor"});
  const CompressorPtr compressor = make_compressor(text, arguments.call("compressor"));
  arguments.finish();
  return build<M>(text, call, compressor);
}

/// The kind of smoothness that has to be given beside the spec; "" for None.
std::string smoothness_of(Arguments& arguments) {
  return arguments.choice("smoothness", {"scalar", "diagonal", "block", "matrix"}).value_or("");
}

MechanismPtr make_direct(std::string_view text, const Value& call) {
  Arguments arguments(text, call, {"compressor", "smoothness"});
  const CompressorPtr compressor = make_compressor(text, arguments.call("compressor"));
  const std::string kind = smoothness_of(arguments);
  arguments.finish();
  return build<Direct>(text, call, compressor, kind);
}

MechanismPtr make_ef21(std::string_view text, const Value& call) {
  Arguments arguments(text, call, {"compressor", "momentum", "init"});
  const CompressorPtr compressor = make_compressor(text, arguments.call("compressor"));
  EF21::Config config;
  config.momentum = arguments.fraction("momentum");
  config.init = init_of(arguments);
  arguments.finish();
  return build<EF21>(text, call, compressor, config);
}

MechanismPtr make_lag(std::string_view text, const Value& call) {
  Arguments arguments(text, call, {"zeta", "init"});
  const double zeta = required(call, text, "zeta", arguments.number("zeta", 0, kLargest));
  const Init init = init_of(arguments);
  arguments.finish();
  return build<Lazy>(text, call, CompressorPtr(), zeta, init);
}

MechanismPtr make_clag(std::string_view text, const Value& call) {
  Arguments arguments(text, call, {"compressor", "zeta", "init"});
  const CompressorPtr compressor = make_compressor(text, arguments.call("compressor"));
  const double zeta = required(call, text, "zeta", arguments.number("zeta", 0, kLargest));
  const Init init = init_of(arguments);
  arguments.finish();
  return build<Lazy>(text, call, compressor, zeta, init);
}

MechanismPtr make_adacgd(std::string_view text, const Value& call) {
  Arguments arguments(text, call, {"ladder", "zeta", "init"});
  std::vector<CompressorPtr> ladder;
  for (const Value& item : arguments.list("ladder")) ladder.push_back(make_compressor(text, item));
  const auto zeta = arguments.number("zeta", 0, kLargest);
  const Init init = init_of(arguments);
  arguments.finish();
  return build<AdaCGD>(text, call, ladder, zeta, init);
}

Condition make_condition(std::string_view text, const Value& value) {
  const auto kind = value.kind == Value::Kind::kCall ? condition_kind(value.text) : std::nullopt;
  if (!kind)
    throw_spec(text, value.column, concat("unknown condition ", to_string(value), "; conditions: ", condition_names()));
  if (*kind == Condition::Kind::kAlways) {
    Arguments(text, value, {}).finish();
    return Condition(*kind);
  }
  Arguments arguments(text, value, {"zeta"});
  const double zeta = required(value, text, "zeta", arguments.number("zeta", 0, kLargest));
  arguments.finish();
  return Condition(*kind, zeta);
}

MechanismPtr make_ada3pc(std::string_view text, const Value& call) {
  Arguments arguments(text, call, {"mechanisms", "conditions", "init"});
  std::vector<MechanismPtr> levels;
  for (const Value& item : arguments.list("mechanisms")) levels.push_back(make_mechanism(text, item));
  std::vector<Condition> conditions;
  for (const Value& item : arguments.list("conditions")) conditions.push_back(make_condition(text, item));
  const Init init = init_of(arguments);
  arguments.finish();
  return build<Ada3PC>(text, call, levels, conditions, init);
}

MechanismPtr make_three_pc(std::string_view text, const Value& call) {
  Arguments arguments(text, call, {"compressor", "variant", "second", "p", "init"});
  const CompressorPtr compressor = make_compressor(text, arguments.call("compressor"));
  ThreePC::Config config;
  config.variant = static_cast<int>(arguments.integer("variant", 2, 1, 5));
  if (const Value* second = arguments.optional_call("second")) {
    if (config.variant == 3)
      config.inner = make_mechanism(text, *second);
    else
      config.second = make_compressor(text, *second);
  }
  config.p = arguments.fraction("p");
  config.init = init_of(arguments);
  arguments.finish();
  return build<ThreePC>(text, call, compressor, config);
}

MechanismPtr make_marina(std::string_view text, const Value& call) {
  Arguments arguments(text, call, {"compressor", "p"});
  const CompressorPtr compressor = make_compressor(text, arguments.call("compressor"));
  const double p = required(call, text, "p", arguments.fraction("p"));
  arguments.finish();
  return build<Marina>(text, call, compressor, p);
}

MechanismPtr make_diana(std::string_view text, const Value& call) {
  Arguments arguments(text, call, {"compressor", "alpha", "smoothness"});
  const CompressorPtr compressor = make_compressor(text, arguments.call("compressor"));
  const auto alpha = arguments.fraction("alpha");
  const std::string kind = smoothness_of(arguments);
  arguments.finish();
  return build<Diana>(text, call, compressor, alpha, kind);
}

MechanismPtr make_bidirectional(std::string_view text, const Value& call) {
  Arguments arguments(text, call, {"up", "down"});
  const MechanismPtr up = make_mechanism(text, arguments.call("up"));
  const MechanismPtr down = make_mechanism(text, arguments.call("down"));
  arguments.finish();
  return build<Bidirectional>(text, call, up, down);
}

using Factory = MechanismPtr (*)(std::string_view, const Value&);

const std::map<std::string, Factory, std::less<>>& factories() {
  static const std::map<std::string, Factory, std::less<>> table = {
      {"Ada3PC", make_ada3pc},
      {"AdaCGD", make_adacgd},
      {"Bidirectional", make_bidirectional},
      {"CLAG", make_clag},
      {"DIANA", make_diana},
      {"Direct", make_direct},
      {"EF21", make_ef21},
      {"ErrorFeedback", make_around<ErrorFeedback>},
      {"LAG", make_lag},
      {"MARINA", make_marina},
      {"ThreePC", make_three_pc},
  };
  return table;
}

MechanismPtr make_mechanism(std::string_view text, const Value& value) {
  if (value.kind == Value::Kind::kCall) {
    if (const auto found = factories().find(value.text); found != factories().end()) return found->second(text, value);
    if (is_compressor(value.text)) return std::make_shared<Direct>(make_compressor(text, value));
  }
  throw_spec(text, value.column,
             concat("unknown mechanism or compressor ", to_string(value), "; mechanisms: ", mechanism_names(),
                    "; compressors: ", compressor_names()));
}

}  // namespace

std::string mechanism_names() {
  std::string out;
  for (const auto& [name, factory] : factories()) out += (out.empty() ? "" : ", ") + name;
  return out;
}

std::string canonical_spec(std::string_view text) {
  const Value value = parse_expression(text);
  if (value.kind == Value::Kind::kCall && condition_kind(value.text)) return make_condition(text, value).spec();
  if (value.kind == Value::Kind::kCall && is_compressor(value.text)) return make_compressor(text, value)->spec();
  return make_mechanism(text, value)->spec();
}

MechanismPtr parse_mechanism(std::string_view text) { return make_mechanism(text, parse_expression(text)); }

}  // namespace tsq
