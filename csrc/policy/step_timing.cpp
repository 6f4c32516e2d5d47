#include "policy/step_timing.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace tsq {

double sane(float x) { return std::isfinite(x) && x > 0 ? static_cast<double>(x) : 0.0; }

double quartile_of(std::deque<double> values) {
  if (values.empty()) return 0;
  const auto at = values.begin() + static_cast<std::ptrdiff_t>((values.size() - 1) / 4);
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

double median_of(std::deque<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 ? values[half] : (values[half - 1] + values[half]) / 2;
}

WindowSummary summarise(std::span<const std::vector<StepTiming>> ranks, size_t buckets, size_t skipped,
                        double interval_before) {
  WindowSummary out;
  out.buckets.resize(buckets);
  const size_t steps = ranks[0].size();
  std::vector<std::vector<std::deque<double>>> series(buckets, std::vector<std::deque<double>>(4));
  std::deque<double> intervals, totals;
  for (size_t k = 0; k < steps; ++k) {
    double span = 0, interval = 0, total = 0;
    for (size_t b = 0; b < buckets; ++b) {
      double ready = 0, exchange = std::numeric_limits<double>::infinity(), codec = 0, bytes = 0;
      for (const auto& rank : ranks) {
        const BucketTiming& t = rank[k].buckets[b];
        ready += sane(t.ready) / static_cast<double>(ranks.size());
        exchange = std::min(exchange, sane(t.exchange));  // that of the rank that came last: the others waited for it
        codec = std::max(codec, sane(t.codec));
        bytes = std::max(bytes, sane(t.bytes));
        out.buckets[b].wanted += sane(t.wanted);
        out.buckets[b].left += sane(t.left);
      }
      if (k < skipped) continue;
      total += exchange;
      const double values[] = {ready, exchange, codec, bytes};
      for (size_t i = 0; i < 4; ++i) series[b][i].push_back(values[i]);
    }
    if (k < skipped) continue;
    for (const auto& rank : ranks) {
      double last = 0;
      for (const BucketTiming& t : rank[k].buckets) last = std::max(last, sane(t.done));
      span += last / static_cast<double>(ranks.size());
      interval = std::max(interval, sane(rank[k].interval));
    }
    out.spans.push_back(span);
    totals.push_back(total);
    if (interval > 0) intervals.push_back(interval);
  }
  for (size_t b = 0; b < buckets; ++b) {
    WindowSummary::Bucket& m = out.buckets[b];
    m.ready = median_of(series[b][0]), m.exchange = median_of(series[b][1]);
    m.codec = median_of(series[b][2]), m.bytes = median_of(series[b][3]);
  }
  out.span = median_of({out.spans.begin(), out.spans.end()});
  out.interval = intervals.empty() ? interval_before : std::max(quartile_of(intervals), out.span);
  out.exchange_total = median_of(totals);
  while (totals.size() > kRecentSteps) totals.pop_front();
  out.recent_exchange_total = median_of(totals);
  return out;
}

}  // namespace tsq
