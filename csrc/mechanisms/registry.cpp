#include "mechanisms/registry.h"

#include <map>

#include "common/error.h"
#include "compressors/registry.h"
#include "mechanisms/direct.h"
#include "mechanisms/error_feedback.h"

namespace tsq {

namespace {

template <class M>
MechanismPtr make_around(std::string_view text, const Value& call) {
  Arguments arguments(text, call, {"compressor"});
  const CompressorPtr compressor = make_compressor(text, arguments.call("compressor"));
  arguments.finish();
  return std::make_shared<M>(compressor);
}

using Factory = MechanismPtr (*)(std::string_view, const Value&);

const std::map<std::string, Factory, std::less<>>& factories() {
  static const std::map<std::string, Factory, std::less<>> table = {
      {"Direct", make_around<Direct>},
      {"ErrorFeedback", make_around<ErrorFeedback>},
  };
  return table;
}

}  // namespace

std::string mechanism_names() {
  std::string out;
  for (const auto& [name, factory] : factories()) out += (out.empty() ? "" : ", ") + name;
  return out;
}

MechanismPtr parse_mechanism(std::string_view text) {
  const Value value = parse_expression(text);
  if (value.kind == Value::Kind::kCall) {
    if (const auto found = factories().find(value.text); found != factories().end()) return found->second(text, value);
    if (is_compressor(value.text)) return std::make_shared<Direct>(make_compressor(text, value));
  }
  throw_spec(text, value.column,
             concat("unknown mechanism or compressor ", to_string(value), "; mechanisms: ", mechanism_names(),
                    "; compressors: ", compressor_names()));
}

}  // namespace tsq
