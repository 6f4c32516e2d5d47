// Exchange over a c10d process group (Gloo is the reference). The group belongs to this object alone: collectives of
// anyone else on it would break the order that Gloo matches them by.
#pragma once

#include <c10/util/intrusive_ptr.h>

#include <chrono>
#include <memory>

#include "exchange/exchange.h"

namespace c10d {
class ProcessGroup;
}

namespace tsq {

/// `timeout` holds for each collective. The group is kept alive by the exchange.
std::unique_ptr<Exchange> make_process_group_exchange(c10::intrusive_ptr<c10d::ProcessGroup> group,
                                                      std::chrono::milliseconds timeout);

}  // namespace tsq
