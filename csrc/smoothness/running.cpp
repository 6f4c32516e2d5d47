#include "smoothness/running.h"

#include <algorithm>
#include <cmath>

#include "common/convert.h"
#include "common/error.h"
#include "common/finite.h"

namespace tsq {

namespace {

/// f(begin, count) for every run of n elements, its result by run.
template <class F>
std::vector<double> by_run(size_t n, size_t run, F f) {
  std::vector<double> out;
  out.reserve((n + run - 1) / run);
  for (size_t begin = 0; begin < n; begin += run) out.push_back(f(begin, std::min(run, n - begin)));
  return out;
}

std::vector<double> to_doubles(ConstView x) {
  std::vector<double> out(x.numel);
  with_element(x.dtype, [&](auto element) {
    for (size_t i = 0; i < x.numel; ++i) out[i] = static_cast<double>(decltype(element)::load(x.data, i));
  });
  return out;
}

/// Mean of f(x_i), four sums side by side: the same order on every machine.
template <class E, class F>
double mean_of(ConstView x, size_t begin, size_t count, F f) {
  double sums[4] = {};
  for (size_t i = 0; i < count; ++i) sums[i % 4] += f(static_cast<double>(E::load(x.data, begin + i)));
  return ((sums[0] + sums[1]) + (sums[2] + sums[3])) / static_cast<double>(count);
}

}  // namespace

RunningSmoothness::RunningSmoothness(RunningKind kind, double decay, std::vector<Of> parameters)
    : kind_(kind), decay_(decay) {
  if (!(decay >= 0 && decay < 1)) throw ArgumentError(concat("decay: expected a number in [0, 1), got ", decay));
  for (const Of& of : parameters) {
    if (of.run == 0) throw ArgumentError("run: expected at least 1 element, got 0");
    parameters_.push_back(
        {.of = of, .moment = {}, .slope = {}, .distance = {}, .told = {}, .gradient = {}, .position = {}});
  }
}

void RunningSmoothness::blend(std::vector<double>& average, const std::vector<double>& next) const {
  if (average.empty()) {
    average = next;
    return;
  }
  for (size_t r = 0; r < average.size(); ++r) {
    const double kept = decay_ * average[r], added = (1.0 - decay_) * next[r];
    average[r] = kept + added;
  }
}

bool RunningSmoothness::observe(size_t i, ConstView gradient, ConstView position) {
  One& p = parameters_[i];
  const std::vector<double> squares = with_element(gradient.dtype, [&](auto element) {
    return by_run(p.of.numel, p.of.run, [&](size_t begin, size_t count) {
      return mean_of<decltype(element)>(gradient, begin, count, [](double v) { return v * v; });
    });
  });
  if (!has_finite_values(squares)) return false;
  blend(p.moment, squares);
  if (kind_ == RunningKind::kSecant) observe_secant(p, gradient, position);
  return true;
}

void RunningSmoothness::observe_secant(One& p, ConstView gradient, ConstView position) {
  std::vector<double> g = to_doubles(gradient), x = to_doubles(position);
  if (!has_finite_values(x)) return;
  if (!p.gradient.empty()) {
    std::vector<double> slope, distance;
    for (size_t begin = 0; begin < g.size(); begin += p.of.run) {
      double along = 0, square = 0;
      for (size_t j = begin; j < std::min(begin + p.of.run, g.size()); ++j) {
        const double dx = x[j] - p.position[j], dg = g[j] - p.gradient[j];
        along += dx * dg;
        square += dx * dx;
      }
      slope.push_back(std::abs(along));
      distance.push_back(square);
    }
    if (has_finite_values(slope) && has_finite_values(distance)) {
      blend(p.slope, slope);
      blend(p.distance, distance);
    }
  }
  p.gradient = std::move(g);
  p.position = std::move(x);
}

void RunningSmoothness::give(size_t i, ConstView diagonal) {
  One& p = parameters_[i];
  if (kind_ != RunningKind::kGiven)
    throw ArgumentError("smoothness: expected Running('hutchinson') for values from outside, got another kind");
  if (diagonal.numel != p.of.numel && diagonal.numel != 1)
    throw ArgumentError(concat("smoothness: expected ", p.of.numel, " elements or 1, got ", diagonal.numel));
  const std::vector<double> means = with_element(diagonal.dtype, [&](auto element) {
    return by_run(p.of.numel, p.of.run, [&](size_t begin, size_t count) {
      const bool one = diagonal.numel == 1;
      return mean_of<decltype(element)>(diagonal, one ? 0 : begin, one ? 1 : count,
                                        [](double v) { return std::abs(v); });
    });
  });
  if (!has_finite_values(means)) throw ArgumentError("smoothness: expected finite numbers, got Inf or NaN");
  blend(p.told, means);
}

void RunningSmoothness::scale(double factor) {
  for (One& p : parameters_) {
    for (double& v : p.moment) v *= factor * factor;
    for (double& v : p.slope) v *= factor;
    for (double& v : p.gradient) v *= factor;
  }
}

std::vector<double> RunningSmoothness::curvature(size_t i) const {
  const One& p = parameters_[i];
  if (kind_ == RunningKind::kSecondMoment) return p.moment;
  if (kind_ == RunningKind::kGiven) return p.told;
  std::vector<double> out(p.slope.size());
  for (size_t r = 0; r < out.size(); ++r) out[r] = p.distance[r] > 0 ? p.slope[r] / p.distance[r] : 0.0;
  return out;
}

std::vector<double> RunningSmoothness::state(size_t i) const {
  const One& p = parameters_[i];
  std::vector<double> out;
  for (const auto* part : {&p.moment, &p.slope, &p.distance, &p.told, &p.gradient, &p.position}) {
    out.push_back(static_cast<double>(part->size()));
    out.insert(out.end(), part->begin(), part->end());
  }
  return out;
}

void RunningSmoothness::load(size_t i, std::span<const double> state) {
  One& p = parameters_[i];
  const size_t runs = (p.of.numel + p.of.run - 1) / p.of.run;
  std::vector<std::vector<double>> parts;
  for (const size_t most : {runs, runs, runs, runs, p.of.numel, p.of.numel}) {
    const double length = state.empty() ? -1.0 : state[0];
    if (length != 0 && length != static_cast<double>(most))
      throw ArgumentError(concat("state_dict: running: expected a part of 0 or ", most, " numbers, got ", length));
    const auto count = static_cast<size_t>(length);
    if (state.size() - 1 < count) throw ArgumentError("state_dict: running: expected more numbers");
    parts.emplace_back(state.begin() + 1, state.begin() + 1 + static_cast<std::ptrdiff_t>(count));
    if (!has_finite_values(parts.back())) throw ArgumentError("state_dict: running: expected finite numbers");
    state = state.subspan(1 + count);
  }
  if (!state.empty()) throw ArgumentError(concat("state_dict: running: ", state.size(), " numbers too many"));
  p.moment = std::move(parts[0]), p.slope = std::move(parts[1]), p.distance = std::move(parts[2]);
  p.told = std::move(parts[3]), p.gradient = std::move(parts[4]), p.position = std::move(parts[5]);
}

}  // namespace tsq
