// Names of compressors -> objects. One line per compressor; everything else about a compressor is in its own file.
#pragma once

#include <string_view>

#include "common/expression.h"
#include "compressors/compressor.h"

namespace tsq {

/// True if `name` is a compressor.
bool is_compressor(std::string_view name);

/// "Identity, Quantizer": for error messages.
std::string compressor_names();

/// Builds the compressor that `call` names. `text` is the whole spec, for error messages. Throws SpecError.
CompressorPtr make_compressor(std::string_view text, const Value& call);

/// Parses a spec that is a compressor. Throws SpecError.
CompressorPtr parse_compressor(std::string_view text);

}  // namespace tsq
