// Names of mechanisms -> objects. A spec is a mechanism around a compressor; a bare compressor means Direct around it.
#pragma once

#include <string_view>

#include "mechanisms/mechanism.h"

namespace tsq {

/// "Direct, ErrorFeedback": for error messages.
std::string mechanism_names();

/// The text of a spec, or of a part of one (a compressor, a condition), with its arguments in order and without
/// defaults. Throws SpecError that shows the column.
std::string canonical_spec(std::string_view text);

/// Parses a spec. Throws SpecError that shows the column.
MechanismPtr parse_mechanism(std::string_view text);

}  // namespace tsq
