// Where times come from: the steady clock, or what a test puts in its place.
#pragma once

#include <chrono>
#include <functional>

namespace tsq {

/// Seconds since some moment; never goes back. Any thread.
using Clock = std::function<double()>;

inline double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace tsq
