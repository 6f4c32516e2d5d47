// Names of mechanisms -> objects. A spec is a mechanism around a compressor; a bare compressor means Direct around it.
#pragma once

#include <string_view>

#include "mechanisms/mechanism.h"

namespace tsq {

/// "Direct, ErrorFeedback": for error messages.
std::string mechanism_names();

/// Throws SpecError unless `text` is a spec, or a part of one that has an object of its own in Python: a condition.
void check_spec(std::string_view text);

/// Parses a spec. Throws SpecError that shows the column.
MechanismPtr parse_mechanism(std::string_view text);

}  // namespace tsq
