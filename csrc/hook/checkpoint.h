// State that outlives a world size: every vector whole, the same on all ranks. And state carried from one spec to
// another.
#pragma once

#include <string>
#include <vector>

#include "exchange/exchange.h"
#include "hook/states.h"

namespace tsq {

/// A state vector over a whole parameter.
struct WholeVector {
  uint32_t parameter = 0;
  Side side = Side::kWorker;
  std::string name;
  Buffer values;
};

/// Collective. Every vector of all ranks: workers' replaced by their mean over ranks, which keeps what error feedback
/// owes and what an estimate means; the owners' parts put together; what the receivers hold is set to the mean of the
/// senders' shifts, so that rounding gathered so far is gone. The same bits on every rank.
std::vector<WholeVector> mean_state(const States& states, const std::vector<Parameter>& parameters, Exchange& exchange);

/// The inverse on any world size: every rank takes its parts. Where the exchange was another: an owner's residual
/// without owners goes into the workers', or is owed (all of them get it, so their mean does); owners without a past
/// begin at the receivers' estimate. Throws ArgumentError, with nothing changed, if a vector has no place or another
/// length.
void load_mean_state(std::vector<WholeVector> given, States& states, const std::vector<Parameter>& parameters);

/// States::all without kOwed: what a checkpoint of the same specs must have.
std::vector<StateRef> mechanisms_state(const States& states);

/// What a checkpoint says that a parameter owes (no elements: nothing), checked, and taken if `write`. Throws
/// ArgumentError.
void load_owed(uint32_t parameter, const std::string& name, ConstView given, States& states, bool write);

/// Collective: state of other mechanisms, `from`, into `to`. Vectors of the same meaning (name) are carried; a residual
/// that has no place any more is owed (States::owed). A parameter whose new estimate has no past is fresh again.
void carry_state(const States& from, const std::vector<Parameter>& old_parameters, States& to,
                 const std::vector<Parameter>& parameters, Exchange& exchange);

}  // namespace tsq
