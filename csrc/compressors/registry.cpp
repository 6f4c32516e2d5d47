#include "compressors/registry.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <map>

#include "common/error.h"
#include "compressors/block_dithering.h"
#include "compressors/cast.h"
#include "compressors/dithering.h"
#include "compressors/identity.h"
#include "compressors/mixed_quantizer.h"
#include "compressors/natural.h"
#include "compressors/nothing.h"
#include "compressors/quantizer.h"
#include "compressors/registry_sparse.h"
#include "compressors/sign.h"
#include "compressors/ternary.h"
#include "compressors/uniform_step.h"
#include "compressors/varying_dithering.h"
#include "wire/levels.h"

namespace tsq {

namespace {

template <class Codec>
CompressorPtr make_plain(std::string_view text, const Value& call) {
  Arguments(text, call, {}).finish();
  return std::make_shared<Codec>();
}

/// The compressor from arguments that are each in range; what it refuses of them together is an error of the spec.
template <class Codec, class Config>
CompressorPtr build(std::string_view text, const Value& call, const Config& config) {
  try {
    return std::make_shared<Codec>(config);
  } catch (const ArgumentError& e) {
    throw_spec(text, call.column, e.what());
  }
}

CompressorPtr make_quantizer(std::string_view text, const Value& call) {
  Arguments arguments(text, call, {"bits", "block", "levels", "rounding", "scale_dtype"});
  Quantizer::Config config;
  const auto average = arguments.float_or_integer("bits", 4, 1, 8, &config.bits);
  config.block = static_cast<uint32_t>(arguments.integer("block", 256, 32, 4096));
  if (const auto levels = arguments.choice("levels", {"unbiased", "fit"}))
    config.levels = *levels == "fit" ? QuantizerLevels::kFit : QuantizerLevels::kUnbiased;
  if (const auto rounding = arguments.choice("rounding", {"stochastic", "nearest"}))
    config.stochastic = *rounding == "stochastic";
  config.bf16_scales = arguments.choice("scale_dtype", {"bf16"}).has_value();
  arguments.finish();
  if (!average) return build<Quantizer>(text, call, config);
  try {
    return std::make_shared<MixedQuantizer>(*average, config);
  } catch (const ArgumentError& e) {
    throw_spec(text, call.column, e.what());
  }
}

template <class Codec>
CompressorPtr make_with_block(std::string_view text, const Value& call) {
  Arguments arguments(text, call, {"block", "scale_dtype"});
  const auto block = static_cast<uint32_t>(arguments.integer("block", 256, 32, 4096));
  const bool bf16_scales = arguments.choice("scale_dtype", {"bf16"}).has_value();
  arguments.finish();
  try {
    return std::make_shared<Codec>(block, bf16_scales);
  } catch (const ArgumentError& e) {
    throw_spec(text, call.column, e.what());
  }
}

CompressorPtr make_cast(std::string_view text, const Value& call) {
  Arguments arguments(text, call, {"dtype"});
  const std::vector<std::string> names(std::begin(kCastNames), std::end(kCastNames));
  const auto dtype = arguments.choice("dtype", names);
  if (!dtype) throw_spec(text, call.column, "Cast: dtype: expected 'fp16', 'bf16', 'fp8' or 'fp8_e5m2', got none");
  arguments.finish();
  return std::make_shared<Cast>(static_cast<CastTo>(std::find(names.begin(), names.end(), *dtype) - names.begin()));
}

template <class Codec>
CompressorPtr make_dithering(std::string_view text, const Value& call) {
  Arguments arguments(text, call, {"levels", "norm", "block"});
  DitheringConfig config;
  const auto levels = arguments.optional_integer("levels", 1, Codec::kMaxLevels);
  if (!levels)
    throw_spec(text, call.column,
               concat(call.text, ": levels: expected an integer from 1 to ", Codec::kMaxLevels, ", got none"));
  config.levels = static_cast<int>(*levels);
  if (const Value* norm = arguments.any("norm")) {
    const bool two = (norm->kind == Value::Kind::kInt || norm->kind == Value::Kind::kFloat) && norm->number == 2;
    if (!two && !(norm->kind == Value::Kind::kString && norm->text == "inf"))
      arguments.fail(*norm, "norm", "2 or 'inf'");
    config.norm = two ? Norm::kTwo : Norm::kMax;
  }
  config.block = static_cast<uint32_t>(arguments.optional_integer("block", 32, 65536).value_or(0));
  arguments.finish();
  return build<Codec>(text, call, config);
}

CompressorPtr make_uniform_step(std::string_view text, const Value& call) {
  Arguments arguments(text, call, {"bits", "step", "rounding"});
  UniformStep::Config config;
  config.bits = arguments.positive("bits", 12);
  config.step = arguments.positive("step", std::numeric_limits<double>::max());
  if (const auto rounding = arguments.choice("rounding", {"stochastic", "nearest"}))
    config.stochastic = *rounding == "stochastic";
  arguments.finish();
  return build<UniformStep>(text, call, config);
}

CompressorPtr make_varying_dithering(std::string_view text, const Value& call) {
  Arguments arguments(text, call, {"budget", "norm", "ratio", "bits"});
  VaryingDithering::Config config;
  config.budget = take_budget(arguments);
  if (const auto norm = arguments.optional_integer("norm", 1, 2)) config.norm = static_cast<int>(*norm);
  arguments.finish();
  return build<VaryingDithering>(text, call, config);
}

CompressorPtr make_block_dithering(std::string_view text, const Value& call) {
  Arguments arguments(text, call, {"blocks", "budget", "steps", "ratio", "bits", "scale_dtype"});
  BlockDithering::Config config;
  const auto blocks = arguments.optional_integer("blocks", 1, SteppedLevels::kMaxBlocks);
  if (!blocks) throw_spec(text, call.column, "BlockDithering needs an argument 'blocks'");
  config.blocks = static_cast<uint32_t>(*blocks);
  config.budget = take_budget(arguments);
  if (const auto steps = arguments.choice("steps", {"optimal", "uniform"})) config.uniform = *steps == "uniform";
  config.bf16_scales = arguments.choice("scale_dtype", {"bf16"}).has_value();
  arguments.finish();
  return build<BlockDithering>(text, call, config);
}

using Factory = CompressorPtr (*)(std::string_view, const Value&);

const std::map<std::string, Factory, std::less<>>& factories() {
  static const std::map<std::string, Factory, std::less<>> table = {
      {"Bernoulli", make_bernoulli},
      {"BlockDithering", make_block_dithering},
      {"Cast", make_cast},
      {"Dithering", make_dithering<Dithering>},
      {"Identity", make_plain<Identity>},
      {"Natural", make_plain<Natural>},
      {"NaturalDithering", make_dithering<NaturalDithering>},
      {"PermK", make_permk},
      {"Quantizer", make_quantizer},
      {"RandK", make_randk},
      {"Sign", make_with_block<Sign>},
      {"SmoothBernoulli", make_smooth_bernoulli},
      {"SparseSign", make_sparse_sign},
      {"StochasticSparsifier", make_stochastic_sparsifier},
      {"Ternary", make_with_block<Ternary>},
      {"TopK", make_topk},
      {"UniformStep", make_uniform_step},
      {"VaryingDithering", make_varying_dithering},
  };
  return table;
}

}  // namespace

bool is_compressor(std::string_view name) { return factories().count(name) > 0; }

std::string compressor_names() {
  std::string out;
  for (const auto& [name, factory] : factories()) out += (out.empty() ? "" : ", ") + name;
  return out;
}

CompressorPtr make_compressor(std::string_view text, const Value& call) {
  const auto found = factories().find(call.text);
  if (call.kind != Value::Kind::kCall || found == factories().end())
    throw_spec(text, call.column, concat("unknown compressor '", call.text, "'; known: ", compressor_names()));
  return found->second(text, call);
}

CompressorPtr parse_compressor(std::string_view text) { return make_compressor(text, parse_expression(text)); }

namespace {

/// The largest number of levels with codes of the format's width: it reads those of all others too.
template <class Codec>
CompressorPtr dithering_for(const wire::Format& format) {
  DitheringConfig config;
  config.levels = std::min(Codec::kMaxLevels, wire::top_level(format.bits));
  config.block = format.block;
  return std::make_shared<Codec>(config);
}

}  // namespace

CompressorPtr decoder_for(const wire::Format& format) {
  switch (format.codec) {
    case wire::Codec::kRaw:
      return std::make_shared<Identity>();
    case wire::Codec::kQuantizer:
      if (format.bits == 0) return MixedQuantizer::reader_of(format);
      return Quantizer::reader_of(format);
    case wire::Codec::kSign:
      return std::make_shared<Sign>(format.block, (format.variant & wire::kBFloat16Scales) != 0);
    case wire::Codec::kTernary:
      return std::make_shared<Ternary>(format.block, (format.variant & wire::kBFloat16Scales) != 0);
    case wire::Codec::kNatural:
      return std::make_shared<Natural>();
    case wire::Codec::kNothing:
      return std::make_shared<Nothing>();
    case wire::Codec::kUniformStep:
      return std::make_shared<UniformStep>(UniformStep::Config{.bits = 1.0, .step = {}, .stochastic = {}});
    case wire::Codec::kTopK:
    case wire::Codec::kSubset:
    case wire::Codec::kSparseSign:
      return sparse_decoder_for(format);
    case wire::Codec::kDithering:
      return dithering_for<Dithering>(format);
    case wire::Codec::kNaturalDithering:
      return dithering_for<NaturalDithering>(format);
    case wire::Codec::kSteppedLevels:
      return BlockDithering::reader_of(format);
    case wire::Codec::kCast:
      return std::make_shared<Cast>(static_cast<CastTo>(format.variant));
  }
  throw_wire("codec", "a known number", int(format.codec));
}

}  // namespace tsq
