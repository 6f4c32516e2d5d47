#include "compressors/registry_sparse.h"

#include <limits>

#include "common/error.h"
#include "compressors/bernoulli.h"
#include "compressors/perm_k.h"
#include "compressors/rand_k.h"
#include "compressors/registry.h"
#include "compressors/smooth_bernoulli.h"
#include "compressors/sparse_sign.h"
#include "compressors/stochastic_sparsifier.h"
#include "compressors/topk.h"

namespace tsq {

namespace {

/// The compressor from arguments that are each in range; what it refuses of them together is an error of the spec.
template <class Codec, class Config>
CompressorPtr build(std::string_view text, const Value& call, const Config& config) {
  try {
    return std::make_shared<Codec>(config);
  } catch (const ArgumentError& e) {
    throw_spec(text, call.column, e.what());
  }
}

/// ratio, k: the arguments of that name, if the compressor has them.
template <class Config>
void take_count(Arguments& arguments, Config& config) {
  config.ratio = arguments.fraction("ratio");
  if (const auto k = arguments.optional_integer("k", 1, INT64_MAX)) config.k = static_cast<uint64_t>(*k);
}

/// value_dtype: None, the name of a type, or a Quantizer.
Values take_values(std::string_view text, Arguments& arguments) {
  constexpr const char* kName = "value_dtype";
  const Value* const given = arguments.any(kName);
  if (!given) return Values();
  if (given->kind == Value::Kind::kCall && given->text == "Quantizer") {
    if (const auto quantizer = std::dynamic_pointer_cast<const Quantizer>(make_compressor(text, *given)))
      return Values(quantizer);
    throw_spec(text, given->column, concat("value_dtype: expected a Quantizer of whole bits, got ", to_string(*given)));
  }
  if (given->kind == Value::Kind::kString && given->text == "fp32") return Values(DType::kFloat32);
  if (given->kind == Value::Kind::kString && given->text == "fp16") return Values(DType::kFloat16);
  if (given->kind == Value::Kind::kString && given->text == "bf16") return Values(DType::kBFloat16);
  arguments.fail(*given, kName, "None or 'fp32' or 'fp16' or 'bf16' or a Quantizer");
}

}  // namespace

Budget take_budget(Arguments& arguments) {
  Budget budget;
  budget.entries = arguments.positive("budget", std::numeric_limits<double>::max());
  budget.ratio = arguments.fraction("ratio");
  budget.bits = arguments.positive("bits", kMaxBudgetBits);
  return budget;
}

CompressorPtr make_bernoulli(std::string_view text, const Value& call) {
  Arguments arguments(text, call, {"p", "value_dtype"});
  const auto p = arguments.fraction("p");
  if (!p) throw_spec(text, call.column, "Bernoulli needs an argument 'p'");
  const Bernoulli::Config config{.p = *p, .values = take_values(text, arguments)};
  arguments.finish();
  return build<Bernoulli>(text, call, config);
}

CompressorPtr make_permk(std::string_view text, const Value& call) {
  Arguments arguments(text, call, {"value_dtype"});
  const PermK::Config config{.values = take_values(text, arguments)};
  arguments.finish();
  return build<PermK>(text, call, config);
}

CompressorPtr make_randk(std::string_view text, const Value& call) {
  Arguments arguments(text, call, {"ratio", "k", "shared", "value_dtype"});
  RandK::Config config;
  take_count(arguments, config);
  config.shared = arguments.boolean("shared").value_or(false);
  config.values = take_values(text, arguments);
  arguments.finish();
  return build<RandK>(text, call, config);
}

CompressorPtr make_smooth_bernoulli(std::string_view text, const Value& call) {
  Arguments arguments(text, call, {"budget", "ratio", "bits", "value_dtype"});
  const Budget budget = take_budget(arguments);
  const SmoothBernoulli::Config config{.budget = budget, .values = take_values(text, arguments)};
  arguments.finish();
  return build<SmoothBernoulli>(text, call, config);
}

CompressorPtr make_sparse_sign(std::string_view text, const Value& call) {
  Arguments arguments(text, call, {"k", "ratio"});
  SparseSign::Config config;
  take_count(arguments, config);
  arguments.finish();
  return build<SparseSign>(text, call, config);
}

CompressorPtr make_stochastic_sparsifier(std::string_view text, const Value& call) {
  Arguments arguments(text, call, {"budget", "value_dtype"});
  const Value* const budget = arguments.any("budget");
  if (!budget) throw_spec(text, call.column, "StochasticSparsifier needs an argument 'budget'");
  StochasticSparsifier::Config config;
  if (budget->kind == Value::Kind::kInt && budget->integer >= 1)
    config.k = static_cast<uint64_t>(budget->integer);
  else if (budget->kind == Value::Kind::kFloat && budget->number > 0 && budget->number <= 1)
    config.ratio = budget->number;
  else
    arguments.fail(*budget, "budget", "an integer of at least 1 (entries) or a float above 0, at most 1.0 (a share)");
  config.values = take_values(text, arguments);
  arguments.finish();
  return build<StochasticSparsifier>(text, call, config);
}

CompressorPtr make_topk(std::string_view text, const Value& call) {
  Arguments arguments(text, call, {"ratio", "k", "value_dtype"});
  TopK::Config config;
  take_count(arguments, config);
  config.values = take_values(text, arguments);
  arguments.finish();
  return build<TopK>(text, call, config);
}

CompressorPtr sparse_decoder_for(const wire::Format& format) {
  const Values values = Values::of(format);
  if (format.codec == wire::Codec::kSparseSign)
    return std::make_shared<SparseSign>(SparseSign::Config{.ratio = 1.0, .k = {}});
  if (format.codec == wire::Codec::kTopK)
    return std::make_shared<TopK>(TopK::Config{.ratio = 1.0, .k = {}, .values = values});
  if (format.variant & wire::kPermuted) return std::make_shared<PermK>(PermK::Config{.values = values});
  return std::make_shared<RandK>(RandK::Config{.ratio = 1.0, .k = {}, .values = values});
}

}  // namespace tsq
