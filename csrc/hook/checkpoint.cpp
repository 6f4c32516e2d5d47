#include "hook/checkpoint.h"

#include <algorithm>
#include <cstring>

#include "common/error.h"
#include "exchange/sealed.h"
#include "mechanisms/vectors.h"

namespace tsq {

namespace {

size_t bytes_of(const View& v) { return v.numel * size_of(v.dtype); }

void copy(View to, ConstView from) {
  if (to.numel) std::memcpy(to.data, from.data, bytes_of(to));
}

/// The owners' parts of a vector put together. Collective.
Buffer assemble(const StateRef& mine, const Parameter& parameter, Exchange& exchange) {
  const auto world = static_cast<uint32_t>(exchange.size());
  const size_t element = size_of(mine.view.dtype);
  size_t longest = 1;
  std::vector<Range> ranges;
  for (uint32_t r = 0; r < world; ++r) {
    ranges.push_back(owned_range(parameter.numel, parameter.granularity(), mine.parameter, r, world));
    longest = std::max(longest, ranges.back().size() * element);
  }
  std::vector<uint8_t> padded(longest);
  if (mine.view.numel) std::memcpy(padded.data(), mine.view.data, bytes_of(mine.view));
  const std::vector<uint8_t> all = all_gather_sealed(exchange, padded, Counted::kNo);
  Buffer whole(parameter.numel, mine.view.dtype);
  for (uint32_t r = 0; r < world; ++r)
    if (ranges[r].size())
      std::memcpy(static_cast<uint8_t*>(whole.view().data) + ranges[r].begin * element, all.data() + r * longest,
                  ranges[r].size() * element);
  return whole;
}

/// The mean over ranks, summed in rank order in the vector's type. Collective.
Buffer mean_over_ranks(const View& mine, Exchange& exchange) {
  const auto world = static_cast<size_t>(exchange.size());
  Buffer mean(mine.numel, mine.dtype);
  if (mine.numel == 0) return mean;
  const std::vector<uint8_t> all =
      all_gather_sealed(exchange, {static_cast<const uint8_t*>(mine.data), bytes_of(mine)}, Counted::kNo);
  for (size_t r = 0; r < world; ++r) add(mean.view(), {all.data() + r * bytes_of(mine), mine.dtype, mine.numel});
  divide(mean.view(), static_cast<double>(world));
  return mean;
}

const WholeVector* find(const std::vector<WholeVector>& all, uint32_t parameter, Side side, const std::string& name) {
  const auto found = std::find_if(all.begin(), all.end(), [&](const WholeVector& v) {
    return v.parameter == parameter && v.side == side && v.name == name;
  });
  return found == all.end() ? nullptr : &*found;
}

/// What a vector that was not saved begins with: estimates of averages and owners' shifts at the receivers' estimate.
const WholeVector* stand_in(const std::vector<WholeVector>& all, const StateRef& ref) {
  if (ref.side == Side::kDelivered || (ref.side == Side::kOwner && ref.name != "residual"))
    return find(all, ref.parameter, Side::kReceived, "estimate");
  if (ref.name == "gradient" || ref.name == "momentum") return find(all, ref.parameter, ref.side, "shift");
  return nullptr;
}

void check_fits(const StateRef& ref, const WholeVector& from) {
  if (from.values.view().dtype != ref.view.dtype || from.values.view().numel < ref.begin + ref.view.numel)
    throw ArgumentError(concat("state_dict: ", name_of(ref.side), ".", ref.name, ": expected at least ",
                               ref.begin + ref.view.numel, " elements of ", name_of(ref.view.dtype), ", got ",
                               from.values.view().numel, " of ", name_of(from.values.view().dtype)));
}

void take(const StateRef& ref, const WholeVector& from) {
  check_fits(ref, from);
  copy(ref.view, ConstView(from.values.view()).slice(ref.begin, ref.view.numel));
}

/// Every vector of this rank over its whole parameter: the owners' parts put together, the workers' as they are or by
/// their mean. Collective; parts without elements count too, so that all ranks make the same calls.
std::vector<WholeVector> whole_vectors(const States& states, const std::vector<Parameter>& parameters,
                                       Exchange& exchange, bool mean_of_workers) {
  std::vector<WholeVector> out;
  for (const StateRef& ref : states.all(/*with_empty=*/true)) {
    WholeVector whole{ref.parameter, ref.side, ref.name, {}};
    if (states.is_cut(ref.side, ref.parameter)) {
      whole.values = assemble(ref, parameters[ref.parameter], exchange);
    } else if (mean_of_workers && ref.side == Side::kWorker) {
      whole.values = mean_over_ranks(ref.view, exchange);
    } else {
      whole.values = Buffer(ref.view.numel, ref.view.dtype);
      copy(whole.values.view(), ref.view);
    }
    out.push_back(std::move(whole));
  }
  return out;
}

/// Where a vector comes from: the one of its name, or what stands in for it; null: nothing does.
const WholeVector* source_of(const std::vector<WholeVector>& all, const StateRef& ref) {
  const WholeVector* found = find(all, ref.parameter, ref.side, ref.name);
  return found ? found : stand_in(all, ref);
}

}  // namespace

std::vector<StateRef> mechanisms_state(const States& states) {
  std::vector<StateRef> refs = states.all();
  std::erase_if(refs, [](const StateRef& ref) { return ref.name == kOwed; });
  return refs;
}

std::vector<WholeVector> mean_state(const States& states, const std::vector<Parameter>& parameters,
                                    Exchange& exchange) {
  std::vector<WholeVector> out = whole_vectors(states, parameters, exchange, /*mean_of_workers=*/true);
  for (WholeVector& v : out)
    if (v.side == Side::kReceived && v.name == "estimate")
      if (const WholeVector* shift = find(out, v.parameter, Side::kWorker, "shift"))
        copy(v.values.view(), shift->values.view());
  return out;
}

namespace {

/// Owners' residuals without owners: every worker owes them, in its residual if it has one, else beside it (kOwed).
void give_to_workers(std::vector<WholeVector>& given, const States& states, const std::vector<Parameter>& parameters) {
  for (size_t i = 0; i < given.size(); ++i) {
    const WholeVector& v = given[i];
    if (v.side != Side::kOwner || v.name != "residual" || !states.of_side(Side::kOwner, v.parameter).empty()) continue;
    const uint32_t id = v.parameter;
    const auto [numel, dtype] = states.shape(id);
    const auto named = [&](const char* name) {
      return std::find_if(given.begin(), given.end(), [&](const WholeVector& w) {
        return w.parameter == id && w.side == Side::kWorker && w.name == name;
      });
    };
    const auto& names = states.names(Side::kWorker, id);
    const char* const place = std::find(names.begin(), names.end(), "residual") != names.end() ? "residual" : kOwed;
    auto found = named(place);
    if (found == given.end()) {
      given.push_back({id, Side::kWorker, place, Buffer(numel, dtype)});
      found = std::prev(given.end());
    }
    for (const View& vector : {given[i].values.view(), found->values.view()})
      if (vector.numel != numel || vector.dtype != dtype)
        throw ArgumentError(concat("state_dict: ", parameters[id].name, ": expected residuals of ", numel,
                                   " elements of ", name_of(dtype), ", got ", vector.numel, " of ",
                                   name_of(vector.dtype)));
    add(found->values.view(), given[i].values.view());
  }
}

}  // namespace

void load_mean_state(std::vector<WholeVector> given, States& states, const std::vector<Parameter>& parameters) {
  const std::vector<StateRef> refs = mechanisms_state(states);
  const auto load_all_owed = [&](bool write) {
    for (uint32_t id = 0; id < parameters.size(); ++id) {
      const WholeVector* owed = find(given, id, Side::kWorker, kOwed);
      load_owed(id, parameters[id].name, owed ? owed->values.view() : View{}, states, write);
    }
  };
  give_to_workers(given, states, parameters);
  for (const StateRef& ref : refs)
    if (const WholeVector* from = source_of(given, ref)) check_fits(ref, *from);
  load_all_owed(/*write=*/false);
  for (const StateRef& ref : refs)
    if (const WholeVector* from = source_of(given, ref)) take(ref, *from);
  load_all_owed(/*write=*/true);
}

void load_owed(uint32_t parameter, const std::string& name, ConstView given, States& states, bool write) {
  if (given.numel == 0) {
    if (write) states.settle(parameter);
    return;
  }
  const auto [numel, dtype] = states.shape(parameter);
  if (given.numel != numel || given.dtype != dtype)
    throw ArgumentError(concat("state_dict: ", name, ".worker.", kOwed, ": expected ", numel, " elements of ",
                               name_of(dtype), ", got ", given.numel, " of ", name_of(given.dtype)));
  if (write) copy(states.owe(parameter), given);
}

void carry_state(const States& from, const std::vector<Parameter>& old_parameters, States& to,
                 const std::vector<Parameter>& parameters, Exchange& exchange) {
  const std::vector<WholeVector> old = whole_vectors(from, old_parameters, exchange, /*mean_of_workers=*/false);
  for (const StateRef& ref : to.all())
    if (const WholeVector* found = source_of(old, ref)) take(ref, *found);
  for (uint32_t id = 0; id < parameters.size(); ++id) {
    Progress& progress = to.progress(id);
    progress = from.progress(id);
    for (const StateRef& ref : to.of_side(Side::kReceived, id))
      if (ref.name == "estimate")
        progress.fresh =
            progress.fresh || !find(old, id, Side::kReceived, "estimate") || !from.same_worker_vectors(to, id);
    for (const Side side : {Side::kWorker, Side::kOwner}) {
      const WholeVector* residual = find(old, id, side, "residual");
      const bool kept = std::any_of(to.names(side, id).begin(), to.names(side, id).end(),
                                    [](const std::string& n) { return n == "residual"; });
      if (!residual || kept) continue;
      add(to.owe(id), residual->values.view());  // of averages: owed by everybody, so by their mean
    }
    if (const WholeVector* before = find(old, id, Side::kWorker, kOwed)) add(to.owe(id), before->values.view());
  }
}

}  // namespace tsq
