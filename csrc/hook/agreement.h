// All ranks compare what they are about to do before they do it.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "exchange/exchange.h"

namespace tsq {

/// Named facts, in the same order on every rank.
using Facts = std::vector<std::pair<std::string, std::string>>;

/// Throws ArgumentError on every rank, with the same text, if the facts differ anywhere: names the first difference,
/// its two values and the ranks that hold them. Collective; `what` begins the message, e.g. "attach".
void agree(Exchange& exchange, const std::string& what, const Facts& facts);

}  // namespace tsq
