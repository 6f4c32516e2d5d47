// What NeverSlower tells people.
#include <algorithm>
#include <cmath>

#include "common/error.h"
#include "policy/never_slower.h"

namespace tsq {

std::string NeverSlower::reason_of(size_t best) const {
  const Candidate& chosen = plans_[best];
  double dense_step =
      interval_ + span_of(plans_[0]);  // the last step, which was another plan's, with its span replaced
  for (const Candidate& c : plans_)
    if (c.measured_at == steps_) dense_step -= span_of(c);
  const auto percent = [&](double seconds) {
    return concat(dense_step > 0 ? std::round(1000 * seconds / dense_step) / 10 : 0.0, " %");
  };
  if (!chosen.measured())
    return concat("trial: would save ", percent(span_of(plans_[settled_index()]) - span_of(chosen)),
                  " of a dense step by the cost model");
  if (!is_dense(chosen.plan))
    return concat("saves ", percent(span_of(plans_[0]) - span_of(chosen)), " of a dense step",
                  plans_[0].measured() ? "" : " by the cost model");
  double least = std::numeric_limits<double>::infinity();
  bool measured = false;
  for (size_t i = 1; i < plans_.size(); ++i)
    if (!barred(plans_[i]) && span_of(plans_[i]) < least) least = span_of(plans_[i]), measured = plans_[i].measured();
  if (!std::isfinite(least)) return "by the cost model no compressed plan would be faster";
  const double saved = span_of(chosen) - least;
  return concat("compressing would ", saved < 0 ? "cost " : "save ", percent(std::abs(saved)), " of a dense step",
                measured ? "" : " by the cost model", "; it has to save more than ",
                percent(config_.min_gain * dense_step));
}

PolicyReport NeverSlower::report() const {
  PolicyReport out;
  out.plan = plan();
  out.on_trial = trial_.has_value();
  out.usable = usable_;
  out.step = interval_;
  out.trials = trials_;
  out.regimes = regimes_;
  out.reason = reason_;
  for (const Candidate& c : plans_) out.alternatives.push_back({c.plan, span_of(c), c.measured(), barred(c)});
  for (size_t k = 0; k < kExchangeKinds; ++k) {
    const Line line = cost_of(static_cast<ExchangeKind>(k));
    out.costs[k] = {line.c0, line.c1, costs_[k] && costs_[k]->samples() > 0};
  }
  return out;
}

}  // namespace tsq
