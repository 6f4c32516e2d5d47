// What the averager owes (States::owed): delivered with a gradient, and made of residuals that would rest.
#include "common/convert.h"
#include "common/finite.h"
#include "hook/averager.h"
#include "kernels/quantizer.h"
#include "mechanisms/vectors.h"

namespace tsq {

/// Adds what is owed to the gradients. An unused parameter's waits: DDP may throw its average away.
void Averager::pay(const Layout& layout, View buffer) {
  paid_.clear();
  for (const Piece& piece : layout.whole.pieces) {
    if (states_.owed(piece.parameter).numel == 0) continue;
    if (config_.hold_unused && kernels::all_zero(buffer.slice(piece.at, piece.numel))) continue;
    paid_.push_back(&piece);
  }
  add_owed(buffer, 1.0);
}

/// Adds what is paid, or takes it away again.
void Averager::add_owed(View buffer, double sign) {
  for (const Piece* paid : paid_) {
    const Piece& piece = *paid;
    const View debt = states_.owed(piece.parameter);
    const ScratchVector sum(piece.numel, debt.dtype);
    assign(sum.view(), debt);
    if (sign < 0) scale(sum.view(), -1.0);
    add_any(sum.view(), buffer.slice(piece.at, piece.numel));
    assign(buffer.slice(piece.at, piece.numel), sum.view());
  }
}

/// What was paid is owed no more, but where Inf or NaN came out: the optimiser will skip that step.
void Averager::settle(ConstView delivered) {
  for (const Piece* piece : paid_)
    if (has_finite_values(delivered.slice(piece->at, piece->numel))) states_.settle(piece->parameter);
  if (!paid_.empty()) recorder_.state_bytes(states_.bytes());
}

/// Before a bucket travels in a way in which residuals would rest, they become debts (States::owed), which travel with
/// this very bucket: the workers' where it goes dense, the owners' where it is not sharded. What DDP may throw away
/// (hold_unused) stays.
void Averager::owe_residuals(const Layout& layout, ConstView buffer) {
  for (const Piece& piece : layout.whole.pieces) {
    const uint32_t id = piece.parameter;
    if (choice_.kind == ExchangeKind::kSharded || !may_owe_[id]) continue;
    if (config_.hold_unused && kernels::all_zero(buffer.slice(piece.at, piece.numel))) continue;
    const auto owe = [&](Side side, uint8_t flag, double share) {
      if (!(may_owe_[id] & flag)) return;
      may_owe_[id] &= static_cast<uint8_t>(~flag);
      for (const StateRef& ref : states_.of_side(side, id)) {
        if (ref.name != "residual" || kernels::all_zero(ref.view)) continue;
        scale(ref.view, share);
        add(states_.owe(id).slice(ref.begin, ref.view.numel), ref.view);
        clear(ref.view);
      }
    };
    owe(Side::kOwner, kOwners, exchange_->size());  // it is the mean that lacks it, and this rank is one of size()
    if (choice_.kind == ExchangeKind::kDense) owe(Side::kWorker, kWorkers, 1.0);
  }
}

}  // namespace tsq
