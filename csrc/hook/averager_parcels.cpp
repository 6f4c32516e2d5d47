// How the averager sends a large bucket in parcels. Note [Parcels] in hook/parcel_stream.h.
#include <algorithm>
#include <cstring>

#include "compressors/message.h"
#include "hook/averager.h"

namespace tsq {

namespace {

/// The gradient as it was, slice by slice as it is overwritten. Unless release() was called, the buffer is restored.
class Undo {
 public:
  /// Both of the same length; slices are saved from the front on.
  Undo(View buffer, View memory) : buffer_(buffer), memory_(memory) {}
  ~Undo() { std::memcpy(buffer_.data, memory_.data, end_ * size_of(buffer_.dtype)); }
  Undo(const Undo&) = delete;
  Undo& operator=(const Undo&) = delete;

  ConstView save(const Piece& piece) {
    const View from = buffer_.slice(piece.at, piece.numel), to = memory_.slice(piece.at, piece.numel);
    std::memcpy(to.data, from.data, piece.numel * size_of(from.dtype));
    end_ = piece.at + piece.numel;
    return to;
  }

  void release() { end_ = 0; }

 private:
  const View buffer_, memory_;
  size_t end_ = 0;  // saved so far, in elements
};

}  // namespace

void Averager::average_parcels(const Layout& layout, View buffer) {
  const std::vector<Shard>& parcels = layout.parcels;
  std::vector<size_t> limits, places(1, 0);
  for (const Shard& parcel : parcels) {
    limits.push_back(limit(parcel, /*owner=*/false));
    places.push_back(places.back() + ParcelStream::room(limits.back()));
  }
  const MutableBytes out = arena(send_memory_, places.back());
  steps_.assign(parameters_.size(), std::nullopt);
  Undo undo(buffer, {arena(spare_memory_, buffer.numel * size_of(buffer.dtype)).data(), buffer.dtype, buffer.numel});
  ParcelStream stream(*exchange_, transport_, limits, fixed(layout, /*owner=*/false), config_.clock);
  std::vector<bool> marked(parameters_.size());
  size_t encoded = 0, saved = 0;  // parcels, slices
  for (size_t p = 0; p < parcels.size(); ++p) {
    for (; encoded < stream.ahead(p); ++encoded) {
      const MutableBytes memory = out.subspan(places[encoded], ParcelStream::room(limits[encoded]));
      find_steps(parcels[encoded], buffer);
      const size_t length = send_shard(parcels[encoded], buffer, memory.first(limits[encoded]));
      const auto timer = recorder_.exchanging();
      stream.add(memory, length);
    }
    std::vector<Bytes> arrived;
    {
      const auto timer = recorder_.exchanging();
      arrived = stream.receive();
    }
    const auto timer = recorder_.decoding();
    const auto messages = check_messages(arrived, parcels[p], /*owner=*/false, buffer.dtype, 0);
    for (const Piece& piece : parcels[p].pieces) {
      sent_[saved++].x = undo.save(piece);
      if (!receive_piece(piece, /*owner=*/false, messages, buffer.slice(piece.at, piece.numel)))
        marked[piece.parameter] = true;
    }
  }
  undo.release();
  const auto timer = recorder_.decoding();
  undo_marked(marked);
  for (const Piece& piece : layout.whole.pieces)
    if (marked[piece.parameter]) fill_nan(buffer.slice(piece.at, piece.numel));
  recorder_.hidden(stream.travelled() - stream.waited());
}

/// A mark on one piece of a parameter is one on all of it.
void Averager::undo_marked(const std::vector<bool>& marked) {
  for (Sent& sent : sent_) {
    if (!marked[sent.piece->parameter]) continue;
    retract(sent);
    if (sent.piece->begin == 0) recorder_.non_finite();
  }
  std::vector<bool> own(marked.size());
  for (const Sent& sent : sent_)
    if (!sent.changed_state) own[sent.piece->parameter] = true;
  for (Sent& sent : sent_)
    if (own[sent.piece->parameter]) sent.changed_state = false;  // the controller of the rate learns from whole steps
}

/// What the pieces of a parameter that begins in this parcel have in common: before the first is sent, and the state
/// another.
void Averager::find_steps(const Shard& parcel, ConstView buffer) {
  const auto timer = recorder_.encoding();
  for (const Piece& piece : parcel.pieces) {
    Piece whole = piece;
    whole.numel = parameters_[piece.parameter].numel;
    if (piece.begin > 0 || piece.numel == whole.numel || delivery_[piece.parameter] != Delivery::kSend) continue;
    EncodeKey key = key_of(whole, /*owner=*/false).encode;
    if (const auto& rates = states_.progress(piece.parameter).rates[0]; !rates.empty()) key.rate = rates[0];
    steps_[piece.parameter] =
        mechanism(piece, /*owner=*/false)
            .common_step(buffer.slice(whole.at, whole.numel), states_.of(Side::kWorker, whole), key);
  }
}

}  // namespace tsq
