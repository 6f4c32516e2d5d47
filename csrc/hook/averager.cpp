#include "hook/averager.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <numeric>

#include "common/convert.h"
#include "common/error.h"
#include "hook/sharding.h"
#include "kernels/quantizer.h"

namespace tsq {

namespace {

/// Adds the time of a scope to a figure that another thread may read.
class Timer {
 public:
  Timer(std::mutex& mutex, double& total) : mutex_(mutex), total_(total) {}
  ~Timer() {
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start_;
    const std::lock_guard lock(mutex_);
    total_ += spent.count();
  }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

 private:
  std::mutex& mutex_;
  double& total_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace

Averager::Averager(std::vector<Parameter> parameters, const AveragerConfig& config, std::unique_ptr<Exchange> exchange)
    : parameters_(std::move(parameters)), config_(config), exchange_(std::move(exchange)) {
  const auto rank = static_cast<uint32_t>(exchange_->rank());
  const auto world = static_cast<uint32_t>(exchange_->size());
  steps_.resize(parameters_.size());
  delivery_.resize(parameters_.size());
  for (uint32_t id = 0; id < parameters_.size(); ++id) {
    const Parameter& p = parameters_[id];
    worker_.push_back(make_slots(*p.up, p.numel, p.dtype, 0));
    const Range own = owned_range(p.numel, p.granularity(), id, rank, world);
    const bool sharded = config_.exchange == ExchangeKind::kSharded;
    const auto is_raw = [](const Mechanism& m) { return m.compressor().format().codec == wire::Codec::kRaw; };
    fixed_size_ = fixed_size_ && p.up->compressor().has_fixed_size() && p.down->compressor().has_fixed_size();
    all_identity_ = all_identity_ && is_raw(*p.up) && (!sharded || is_raw(*p.down));
    owner_.push_back(make_slots(*p.down, sharded ? own.size() : 0, p.dtype, own.begin));
  }
  for (const StateRef& ref : state()) stats_.state_bytes += ref.view.numel * size_of(ref.view.dtype);
}

Averager::Slots Averager::make_slots(const Mechanism& mechanism, size_t numel, DType dtype, size_t begin) {
  Slots slots;
  slots.begin = begin;
  for (size_t i = 0; i < mechanism.state_names().size(); ++i) {
    slots.buffers.emplace_back(numel, state_dtype(dtype));
    slots.views.push_back(slots.buffers.back().view());
  }
  return slots;
}

std::vector<StateRef> Averager::state() {
  std::vector<StateRef> refs;
  for (uint32_t id = 0; id < parameters_.size(); ++id) {
    for (const bool owner : {false, true}) {
      const Slots& slots = (owner ? owner_ : worker_)[id];
      const auto names = (owner ? parameters_[id].down : parameters_[id].up)->state_names();
      for (size_t i = 0; i < slots.views.size(); ++i)
        if (slots.views[i].numel > 0) refs.push_back({id, owner, names[i], slots.begin, slots.views[i]});
    }
  }
  return refs;
}

void Averager::scale_state(double factor) {
  for (const StateRef& ref : state())
    with_element(ref.view.dtype, [&](auto element) {
      using E = decltype(element);
      for (size_t i = 0; i < ref.view.numel; ++i)
        E::store(ref.view.data, i, E::load(ref.view.data, i) * static_cast<typename E::State>(factor));
    });
}

AveragerStats Averager::stats() const {
  AveragerStats out;
  {
    const std::lock_guard lock(stats_mutex_);
    out = stats_;
  }
  out.traffic = exchange_->traffic();
  return out;
}

MutableBytes Averager::arena(std::vector<uint8_t>& memory, size_t bytes) {
  if (memory.size() < bytes) {
    const std::lock_guard lock(stats_mutex_);
    stats_.buffer_bytes += bytes - memory.size();
    memory.resize(bytes);
  }
  return {memory.data(), bytes};
}

const Layout& Averager::layout_of(std::span<const uint32_t> ids, DType dtype) {
  auto key = std::make_pair(std::vector<uint32_t>(ids.begin(), ids.end()), dtype);
  auto found = layouts_.find(key);
  if (found == layouts_.end()) {
    Layout layout = make_layout(parameters_, ids, dtype, exchange_->size());
    found = layouts_.emplace(std::move(key), std::move(layout)).first;
  }
  return found->second;
}

std::vector<View> Averager::state_of(const Slots& slots, const Piece& piece) const {
  std::vector<View> views;
  for (const View& view : slots.views) views.push_back(view.slice(piece.begin - slots.begin, piece.numel));
  return views;
}

void Averager::average(std::span<const uint32_t> ids, View buffer) {
  for (const uint32_t id : ids) {
    if (id >= parameters_.size()) throw ArgumentError(concat("bucket: unknown parameter number ", id));
    if (parameters_[id].dtype != buffer.dtype)
      throw ArgumentError(concat("bucket: expected dtype ", name_of(parameters_[id].dtype), ", that of parameter ",
                                 parameters_[id].name, ", got ", name_of(buffer.dtype)));
  }
  const Layout& layout = layout_of(ids, buffer.dtype);
  if (layout.numel != buffer.numel)
    throw ArgumentError(concat("bucket: expected ", layout.numel, " elements, those of its ", ids.size(),
                               " parameters, got ", buffer.numel));
  const bool dense = !enabled_ || all_identity_ || config_.exchange == ExchangeKind::kDense || exchange_->size() == 1;
  {
    const std::lock_guard lock(stats_mutex_);
    ++stats_.calls;
    stats_.dense_calls += dense;
    stats_.dense_bytes += ring_bytes(buffer.numel * size_of(buffer.dtype), exchange_->size());
  }
  if (dense) return average_dense(buffer);

  sent_.clear();
  inspect_all(layout, buffer);
  try {
    if (config_.exchange == ExchangeKind::kAllGather)
      average_all_gather(layout, buffer);
    else
      average_sharded(layout, buffer);
  } catch (...) {
    for (const Sent& sent : sent_) retract(sent);  // whatever throws comes before the first write to the buffer
    throw;
  }
  ++sequence_;
  for (const uint32_t id : ids) ++steps_[id];
}

void Averager::average_dense(View buffer) {
  if (exchange_->size() == 1 || buffer.numel == 0) return;
  const Timer timer(stats_mutex_, stats_.exchange_seconds);
  exchange_->all_reduce_mean(buffer);
}

std::vector<size_t> Averager::gather_lengths(std::span<const size_t> mine) {
  const Timer timer(stats_mutex_, stats_.exchange_seconds);
  const std::vector<uint64_t> own(mine.begin(), mine.end());
  std::vector<uint64_t> all(own.size() * static_cast<size_t>(exchange_->size()));
  exchange_->all_gather({reinterpret_cast<const uint8_t*>(own.data()), 8 * own.size()},
                        {reinterpret_cast<uint8_t*>(all.data()), 8 * all.size()});
  return {all.begin(), all.end()};
}

std::vector<Bytes> Averager::gather_messages(Bytes arena_with_mine, size_t length, std::span<const size_t> limits) {
  const size_t world = limits.size();
  std::vector<size_t> lengths(limits.begin(), limits.end());
  if (!fixed_size_) {
    lengths = gather_lengths({&length, 1});
    for (size_t r = 0; r < world; ++r)
      if (lengths[r] > limits[r]) throw_wire("length", concat("at most ", limits[r]), lengths[r]);
  }
  const size_t padded = *std::max_element(lengths.begin(), lengths.end());
  const MutableBytes all = arena(receive_memory_, world * padded);
  {
    const Timer timer(stats_mutex_, stats_.exchange_seconds);
    exchange_->all_gather(arena_with_mine.first(padded), all);
  }
  std::vector<Bytes> messages;
  for (size_t r = 0; r < world; ++r) messages.push_back(Bytes(all).subspan(r * padded, lengths[r]));
  return messages;
}

std::vector<Bytes> Averager::exchange_shards(Bytes out, const Layout& layout, std::span<const size_t> lengths) {
  const size_t world = layout.shards.size(), rank = static_cast<size_t>(exchange_->rank());
  std::vector<size_t> send_sizes(world), from_rank(world, lengths[rank]);
  for (size_t r = 0; r < world; ++r) send_sizes[r] = layout.shards[r].up_bytes;
  Bytes packed = out;
  if (!fixed_size_) {  // every part is padded to the longest that any rank sends to that owner, and moved up to its
                       // predecessor
    const std::vector<size_t> all = gather_lengths(lengths);  // [sender][owner]
    for (size_t owner = 0; owner < world; ++owner) {
      size_t longest = 0;
      for (size_t r = 0; r < world; ++r) longest = std::max(longest, all[r * world + owner]);
      if (longest > send_sizes[owner]) throw_wire("length", concat("at most ", send_sizes[owner]), longest);
      send_sizes[owner] = longest;
    }
    const MutableBytes memory = arena(pack_memory_, std::accumulate(send_sizes.begin(), send_sizes.end(), size_t{0}));
    for (size_t owner = 0, from = 0, to = 0; owner < world; ++owner) {
      std::memcpy(memory.data() + to, out.data() + from, lengths[owner]);
      from += layout.shards[owner].up_bytes;
      to += send_sizes[owner];
    }
    packed = memory;
    for (size_t r = 0; r < world; ++r) from_rank[r] = all[r * world + rank];
  }
  const MutableBytes received = arena(receive_memory_, world * send_sizes[rank]);
  {
    const Timer timer(stats_mutex_, stats_.exchange_seconds);
    exchange_->all_to_all(packed, send_sizes, received, std::vector<size_t>(world, send_sizes[rank]));
  }
  std::vector<Bytes> messages;
  for (size_t r = 0; r < world; ++r) messages.push_back(Bytes(received).subspan(r * send_sizes[rank], from_rank[r]));
  return messages;
}

void Averager::average_all_gather(const Layout& layout, View buffer) {
  const size_t limit = layout.whole.up_bytes;
  const MutableBytes mine = arena(send_memory_, limit);
  const size_t length = send_shard(layout.whole, buffer, mine);
  const std::vector<size_t> limits(static_cast<size_t>(exchange_->size()), limit);
  const std::vector<Bytes> parts = gather_messages(mine, length, limits);
  const Timer timer(stats_mutex_, stats_.decode_seconds);
  const auto messages = check_messages(parts, layout.whole, wire::Kind::kWorker, buffer.dtype, 0);
  deliver(layout.whole, messages, /*averages=*/false, buffer, 0);
}

void Averager::average_sharded(const Layout& layout, View buffer) {
  const size_t world = layout.shards.size(), rank = static_cast<size_t>(exchange_->rank());
  size_t up_total = 0, down_max = 0;
  for (const Shard& shard : layout.shards) {
    up_total += shard.up_bytes;
    down_max = std::max(down_max, shard.down_bytes);
  }
  // 1. Every shard to its owner.
  const MutableBytes out = arena(send_memory_, up_total);
  std::vector<size_t> lengths, first_sent;  // by shard; first_sent: index into sent_ of its first section
  size_t at = 0;
  for (const Shard& shard : layout.shards) {
    first_sent.push_back(sent_.size());
    lengths.push_back(send_shard(shard, buffer, out.subspan(at, shard.up_bytes)));
    at += shard.up_bytes;
  }
  const std::vector<Bytes> received = exchange_shards(out, layout, lengths);
  // 2. The owner averages and compresses again.
  const MutableBytes average = arena(average_memory_, down_max);
  const size_t length = average_own_shard(layout.shards[rank], received, buffer.dtype, average);
  // 3. Every average to everybody.
  std::vector<size_t> limits;
  for (const Shard& shard : layout.shards) limits.push_back(shard.down_bytes);
  const std::vector<Bytes> averages = gather_messages(average, length, limits);
  const Timer timer(stats_mutex_, stats_.decode_seconds);
  std::vector<std::vector<wire::Message>> messages;
  for (size_t r = 0; r < world; ++r)
    messages.push_back(check_messages({&averages[r], 1}, layout.shards[r], wire::Kind::kAverage, buffer.dtype, int(r)));
  for (size_t r = 0; r < world; ++r) deliver(layout.shards[r], messages[r], /*averages=*/true, buffer, first_sent[r]);
}

void Averager::inspect_all(const Layout& layout, ConstView buffer) {
  const Timer timer(stats_mutex_, stats_.encode_seconds);
  for (const Piece& piece : layout.whole.pieces) {
    const ConstView x = buffer.slice(piece.at, piece.numel);
    Delivery& delivery = delivery_[piece.parameter];
    delivery = inspect(*parameters_[piece.parameter].up, x, worker_[piece.parameter].views);
    if (config_.hold_unused && delivery == Delivery::kSend && kernels::all_zero(x)) delivery = Delivery::kHold;
  }
}

size_t Averager::send_shard(const Shard& shard, ConstView buffer, MutableBytes out) {
  const Timer timer(stats_mutex_, stats_.encode_seconds);
  wire::Writer writer(out, {.dtype = buffer.dtype,
                            .sections = static_cast<uint32_t>(shard.pieces.size()),
                            .rank = static_cast<uint32_t>(exchange_->rank()),
                            .step = sequence_});
  for (const Piece& piece : shard.pieces)
    writer.add(send_piece(piece, /*owner=*/false, delivery_[piece.parameter], buffer.slice(piece.at, piece.numel),
                          writer.payload()));
  return writer.finish();
}

wire::Section Averager::send_piece(const Piece& piece, bool owner, Delivery delivery, ConstView x,
                                   MutableBytes payload) {
  const uint32_t id = piece.parameter;
  const Parameter& parameter = parameters_[id];
  const StreamId stream{config_.seed, steps_[id], static_cast<uint32_t>(exchange_->rank()), owner, id};
  const EncodeKey key = encode_key(stream, piece.begin, static_cast<uint32_t>(exchange_->size()));
  const wire::Section section = send_section(owner ? *parameter.down : *parameter.up, delivery, x,
                                             state_of((owner ? owner_ : worker_)[id], piece), key, payload);
  sent_.push_back({&piece, owner, x, payload.first(section.bytes), delivery == Delivery::kSend && !section.non_finite});
  return section;
}

std::vector<wire::Message> Averager::check_messages(std::span<const Bytes> messages, const Shard& shard,
                                                    wire::Kind kind, DType dtype, int first_rank) const {
  std::vector<wire::Message> out;
  for (size_t i = 0; i < messages.size(); ++i) {
    wire::Message message = wire::parse(messages[i]);
    const wire::Header& header = message.header;
    if (header.rank != static_cast<uint32_t>(first_rank) + i) throw_wire("rank", first_rank + int(i), header.rank);
    if (header.kind != kind) throw_wire("kind", int(kind), int(header.kind));
    if (header.step != sequence_) throw_wire("step", sequence_, header.step);
    if (header.dtype != dtype) throw_wire("dtype", name_of(dtype), name_of(header.dtype));
    if (header.sections != shard.pieces.size()) throw_wire("sections", shard.pieces.size(), header.sections);
    for (size_t j = 0; j < shard.pieces.size(); ++j) {
      const Parameter& p = parameters_[shard.pieces[j].parameter];
      check_section(message, j, kind == wire::Kind::kWorker ? *p.up : *p.down, shard.pieces[j].numel);
    }
    out.push_back(std::move(message));
  }
  return out;
}

size_t Averager::average_own_shard(const Shard& shard, std::span<const Bytes> received, DType dtype, MutableBytes out) {
  const auto messages = check_messages(received, shard, wire::Kind::kWorker, dtype, 0);

  const View means{arena(mean_memory_, shard.numel * size_of(dtype)).data(), dtype, shard.numel};
  wire::Writer writer(out, {.dtype = dtype,
                            .kind = wire::Kind::kAverage,
                            .sections = static_cast<uint32_t>(shard.pieces.size()),
                            .rank = static_cast<uint32_t>(exchange_->rank()),
                            .step = sequence_});
  size_t at = 0;
  for (size_t i = 0; i < shard.pieces.size(); ++i) {
    const Piece& piece = shard.pieces[i];
    const Parameter& parameter = parameters_[piece.parameter];
    const View mean = means.slice(at, piece.numel);
    at += piece.numel;
    Delivery delivery = Delivery::kMark;
    {
      const Timer timer(stats_mutex_, stats_.decode_seconds);
      if (receive_section(*parameter.up, messages, i, mean)) delivery = Delivery::kSend;
    }
    const Timer timer(stats_mutex_, stats_.encode_seconds);
    if (delivery == Delivery::kSend)
      delivery = inspect(*parameter.down, mean, state_of(owner_[piece.parameter], piece));
    if (config_.hold_unused && delivery == Delivery::kSend && kernels::all_zero(mean)) delivery = Delivery::kHold;
    writer.add(send_piece(piece, /*owner=*/true, delivery, mean, writer.payload()));
  }
  return writer.finish();
}

void Averager::deliver(const Shard& shard, std::span<const wire::Message> messages, bool averages, View buffer,
                       size_t first_sent) {
  for (size_t i = 0; i < shard.pieces.size(); ++i) {
    const Piece& piece = shard.pieces[i];
    const Parameter& p = parameters_[piece.parameter];
    const bool marked =
        std::any_of(messages.begin(), messages.end(), [&](const wire::Message& m) { return m.sections[i].non_finite; });
    if (marked) {
      retract(sent_[first_sent + i]);  // reads the gradient: before it is overwritten
      const std::lock_guard lock(stats_mutex_);
      ++stats_.non_finite;
    }
    receive_section(averages ? *p.down : *p.up, messages, i, buffer.slice(piece.at, piece.numel));
  }
}

void Averager::retract(const Sent& sent) {
  if (!sent.changed_state) return;
  const uint32_t id = sent.piece->parameter;
  const Mechanism& mechanism = sent.owner ? *parameters_[id].down : *parameters_[id].up;
  mechanism.retract(sent.payload, sent.x, state_of((sent.owner ? owner_ : worker_)[id], *sent.piece));
}

}  // namespace tsq
