#include "mechanisms/bidirectional.h"

#include "common/error.h"
#include "compressors/message.h"
#include "mechanisms/section.h"
#include "mechanisms/vectors.h"

namespace tsq {

namespace {

std::vector<std::string> receiver_names_of(const Mechanism& up, const Mechanism& down) {
  std::vector<std::string> names;
  for (const std::string& name : up.receiver_names()) names.push_back("up." + name);
  for (const std::string& name : down.state_names()) names.push_back("down." + name);
  for (const std::string& name : down.receiver_names()) names.push_back("down." + name);
  return names;
}

}  // namespace

Bidirectional::Bidirectional(MechanismPtr up, MechanismPtr down)
    : Mechanism(up->state_names(), receiver_names_of(*up, *down)), up_(std::move(up)), down_(std::move(down)) {
  for (const Mechanism* m : {up_.get(), down_.get()})
    if (dynamic_cast<const Bidirectional*>(m))
      throw ArgumentError("Bidirectional: expected two mechanisms of one direction, got " + m->spec());
}

void Bidirectional::receive(std::span<const Arrived> from, std::span<const View> state, const StepKey& key,
                            View out) const {
  const size_t a = up_->receiver_names().size(), b = a + down_->state_names().size();
  const ScratchVector mean(out.numel, out.dtype);
  up_->receive(from, state.first(a), key, mean.view());
  if (any_non_finite(from)) return;
  std::vector<uint8_t> bytes(down_->max_bytes(out.numel, out.dtype, key.first));
  Parts parts(out.numel, bytes);
  const auto owned = state.subspan(a, b - a);
  // A 16-bit mean may have overflowed.
  if (inspect(*down_, mean.view(), owned) != Delivery::kSend || !down_->send(mean.view(), owned, key, parts)) {
    fill_nan(out);
    return;
  }
  const std::vector<Bytes> payloads = payloads_of(parts);
  const Arrived arrived{parts.sections(), payloads};
  down_->receive({&arrived, 1}, state.subspan(b), key, out);
}

}  // namespace tsq
