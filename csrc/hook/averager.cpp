#include "hook/averager.h"

#include <algorithm>
#include <numeric>

#include "common/error.h"
#include "hook/checkpoint.h"
#include "kernels/quantizer.h"
#include "mechanisms/vectors.h"

namespace tsq {

namespace {

bool is_raw(const Mechanism& m) {
  return m.receiver_names().empty() && m.compressor().format().codec == wire::Codec::kRaw;
}

std::vector<size_t> numels_of(const std::vector<Parameter>& parameters) {
  std::vector<size_t> out;
  for (const Parameter& p : parameters) out.push_back(p.numel);
  return out;
}

}  // namespace

Averager::Averager(std::vector<Parameter> parameters, const AveragerConfig& config, std::unique_ptr<Exchange> exchange)
    : parameters_(std::move(parameters)),
      config_(config),
      exchange_(std::move(exchange)),
      transport_(*exchange_),
      states_(parameters_, config.exchange, static_cast<uint32_t>(exchange_->rank()),
              static_cast<uint32_t>(exchange_->size())),
      tuner_(config.policy, numels_of(parameters_), config.weights),
      may_owe_(parameters_.size(), kWorkers | kOwners),
      delivery_(parameters_.size()),
      recorder_(parameters_.size(), config.clock) {
  look_at_mechanisms();
  make_steering();
}

void Averager::look_at_mechanisms() {
  const bool sharded = config_.exchange == ExchangeKind::kSharded;
  all_identity_ = std::all_of(parameters_.begin(), parameters_.end(),
                              [&](const Parameter& p) { return is_raw(*p.up) && (!sharded || is_raw(*p.down)); });
  recorder_.state_bytes(states_.bytes());
}

void Averager::set_mechanisms(std::vector<std::pair<MechanismPtr, MechanismPtr>> mechanisms) {
  std::vector<Parameter> parameters = parameters_;
  for (size_t i = 0; i < parameters.size(); ++i) {
    parameters[i].up = std::move(mechanisms[i].first);
    parameters[i].down = std::move(mechanisms[i].second);
    parameters[i].coarser.clear();
  }
  if (steering_) check_ladders(parameters);
  if (planner_) planner_->adopt(parameters);
  States states(parameters, config_.exchange, static_cast<uint32_t>(exchange_->rank()),
                static_cast<uint32_t>(exchange_->size()));
  carry_state(states_, parameters_, states, parameters, *exchange_);
  parameters_ = std::move(parameters);
  states_ = std::move(states);
  may_owe_.assign(parameters_.size(), kWorkers | kOwners);
  if (planner_) recorder_.plan(*planner_);
  layouts_.clear();
  sizes_.clear();
  look_at_mechanisms();
  if (steering_) steering_->restart_with_one_level();
}

void Averager::scale_state(double factor) {
  for (const StateRef& ref : states_.all()) scale(ref.view, factor);
  tuner_.scale(factor);
  if (planner_) planner_->scale(factor);
}

AveragerStats Averager::stats() const {
  AveragerStats out = recorder_.stats();
  out.traffic = exchange_->traffic();
  return out;
}

const Layout& Averager::layout_of(std::span<const uint32_t> ids) {
  std::vector<uint32_t> key(ids.begin(), ids.end());
  auto found = layouts_.find(key);
  if (found == layouts_.end()) {
    Layout layout = make_layout(parameters_, ids, exchange_->size(), config_.parcels);
    found = layouts_.emplace(std::move(key), std::move(layout)).first;
  }
  return found->second;
}

size_t Averager::limit(const Shard& shard, bool owner) const {
  size_t bytes = wire::overhead(owner ? shard.down_sections : shard.up_sections);
  for (const Piece& piece : shard.pieces)
    bytes += mechanism(piece, owner)
                 .max_bytes(piece.numel, parameters_[piece.parameter].dtype, states_.progress(piece.parameter).fresh);
  return bytes;
}

bool Averager::fixed(const Layout& layout, bool owner) const {
  return std::all_of(layout.whole.pieces.begin(), layout.whole.pieces.end(), [&](const Piece& piece) {
    return mechanism(piece, owner).has_fixed_size(states_.progress(piece.parameter).fresh);
  });
}

StepKey Averager::key_of(const Piece& piece, bool owner) const {
  const Progress& progress = states_.progress(piece.parameter);
  const StreamId stream{config_.seed, progress.steps, static_cast<uint32_t>(exchange_->rank()), owner, piece.parameter};
  StepKey key{encode_key(stream, piece.begin, static_cast<uint32_t>(exchange_->size())), progress.fresh};
  if (planner_) key.encode.weights = planner_->weights(piece);
  return key;
}

const Layout& Averager::checked_layout_of(std::span<const uint32_t> ids, ConstView buffer) {
  for (const uint32_t id : ids) {
    if (id >= parameters_.size()) throw ArgumentError(concat("bucket: unknown parameter number ", id));
    if (parameters_[id].dtype != buffer.dtype)
      throw ArgumentError(concat("bucket: expected dtype ", name_of(parameters_[id].dtype), ", that of parameter ",
                                 parameters_[id].name, ", got ", name_of(buffer.dtype)));
  }
  const Layout& layout = layout_of(ids);
  if (layout.numel != buffer.numel)
    throw ArgumentError(concat("bucket: expected ", layout.numel, " elements, those of its ", ids.size(),
                               " parameters, got ", buffer.numel));
  return layout;
}

void Averager::average_as_chosen(const Layout& layout, View buffer) {
  const bool dense = choice_.kind == ExchangeKind::kDense;
  recorder_.bucket(dense, ring_bytes(buffer.numel * size_of(buffer.dtype), exchange_->size()));
  pay(layout, buffer);
  if (dense) {
    average_dense(buffer);
    settle(buffer);
    return;
  }
  sent_.clear();
  steps_.clear();
  tuner_.begin(layout.ids, layout.numel);
  const Tuner::Bucket before = spent();
  inspect_all(layout, buffer);
  try {
    if (choice_.kind == ExchangeKind::kSharded)
      average_sharded(layout, buffer);
    else if (in_parcels(layout))
      average_parcels(layout, buffer);
    else
      average_all_gather(layout, buffer);
  } catch (...) {
    take_back();  // whatever throws comes before the first write to the buffer, or has restored it
    add_owed(buffer, -1.0);
    throw;
  }
  learn(before, buffer);
  settle(buffer);
  finish_step(layout);
}

void Averager::finish_step(const Layout& layout) {
  ++sequence_;
  std::map<std::pair<uint32_t, bool>, std::vector<Aim>> aims;  // (parameter, owner): by part
  for (const Sent& s : sent_)
    if (s.changed_state) add_aims(s.sections, s.targets, aims[{s.piece->parameter, s.owner}]);
  for (const auto& [of, by_part] : aims) next_rates(by_part, states_.progress(of.first).rates[of.second]);
  for (const uint32_t id : layout.ids) {
    may_owe_[id] |= kWorkers | (choice_.kind == ExchangeKind::kSharded ? kOwners : 0);
    ++states_.progress(id).steps;
    states_.progress(id).fresh = false;
  }
  recorder_.buffer_bytes(transport_.buffer_bytes() + send_memory_.size() + average_memory_.size() +
                         spare_memory_.size());
}

void Averager::average_dense(View buffer) {
  if (exchange_->size() == 1 || buffer.numel == 0) return;
  const auto timer = recorder_.exchanging();
  exchange_->all_reduce_mean(buffer);
}

void Averager::average_all_gather(const Layout& layout, View buffer) {
  const size_t most = limit(layout.whole, /*owner=*/false);
  const MutableBytes mine = arena(send_memory_, Transport::room(most));
  const size_t length = send_shard(layout.whole, buffer, mine);
  const std::vector<size_t> limits(static_cast<size_t>(exchange_->size()), most);
  std::vector<Bytes> parts;
  {
    const auto timer = recorder_.exchanging();
    parts = transport_.gather(mine, length, limits, fixed(layout, /*owner=*/false));
  }
  const auto timer = recorder_.decoding();
  const auto messages = check_messages(parts, layout.whole, /*owner=*/false, buffer.dtype, 0);
  deliver(layout.whole, messages, /*averages=*/false, buffer, 0);
}

void Averager::average_sharded(const Layout& layout, View buffer) {
  const size_t world = layout.shards.size(), rank = static_cast<size_t>(exchange_->rank());
  std::vector<size_t> up_limits, down_limits;
  for (const Shard& shard : layout.shards) {
    up_limits.push_back(limit(shard, /*owner=*/false));
    down_limits.push_back(limit(shard, /*owner=*/true));
  }
  // 1. Every shard to its owner.
  size_t all_rooms = 0;
  for (const size_t bytes : up_limits) all_rooms += Transport::room(bytes);
  const MutableBytes out = arena(send_memory_, all_rooms);
  std::vector<size_t> lengths, first_sent;  // by shard; first_sent: index into sent_ of its first piece
  size_t at = 0;
  for (size_t r = 0; r < world; ++r) {
    first_sent.push_back(sent_.size());
    lengths.push_back(send_shard(layout.shards[r], buffer, out.subspan(at, up_limits[r])));
    at += Transport::room(up_limits[r]);
  }
  std::vector<Bytes> received, averages;
  {
    const auto timer = recorder_.exchanging();
    received = transport_.to_owners(out, lengths, up_limits, fixed(layout, /*owner=*/false));
  }
  // 2. The owner averages and compresses again.
  const MutableBytes average =
      arena(average_memory_, Transport::room(*std::max_element(down_limits.begin(), down_limits.end())));
  const size_t length = average_own_shard(layout.shards[rank], received, buffer.dtype, average);
  // 3. Every average to everybody.
  {
    const auto timer = recorder_.exchanging();
    averages = transport_.gather(average, length, down_limits, fixed(layout, /*owner=*/true));
  }
  const auto timer = recorder_.decoding();
  std::vector<std::vector<wire::Message>> messages;
  for (size_t r = 0; r < world; ++r)
    messages.push_back(check_messages({&averages[r], 1}, layout.shards[r], /*owner=*/true, buffer.dtype, int(r)));
  for (size_t r = 0; r < world; ++r) deliver(layout.shards[r], messages[r], /*averages=*/true, buffer, first_sent[r]);
}

void Averager::inspect_all(const Layout& layout, ConstView buffer) {
  const auto timer = recorder_.encoding();
  for (const Piece& piece : layout.whole.pieces) {
    const ConstView x = buffer.slice(piece.at, piece.numel);
    const Mechanism& up = mechanism(piece, /*owner=*/false);
    Delivery& delivery = delivery_[piece.parameter];
    delivery = inspect(up, x, states_.of(Side::kWorker, piece.parameter));
    // An estimate owes nothing: what DDP throws away of it is not lost.
    if (config_.hold_unused && delivery == Delivery::kSend && !up.keeps_pace() && kernels::all_zero(x))
      delivery = Delivery::kHold;
  }
}

wire::Header Averager::header_of(const Shard& shard, bool owner, DType dtype) const {
  return {.dtype = dtype,
          .kind = owner ? wire::Kind::kAverage : wire::Kind::kWorker,
          .sections = static_cast<uint32_t>(owner ? shard.down_sections : shard.up_sections),
          .rank = static_cast<uint32_t>(exchange_->rank()),
          .step = sequence_};
}

size_t Averager::send_shard(const Shard& shard, ConstView buffer, MutableBytes out) {
  const auto timer = recorder_.encoding();
  wire::Writer writer(out, header_of(shard, /*owner=*/false, buffer.dtype));
  const size_t first = sent_.size();
  for (const Piece& piece : shard.pieces)
    send_piece(piece, /*owner=*/false, delivery_[piece.parameter], buffer.slice(piece.at, piece.numel), writer);
  return all_skipped(first) ? 0 : writer.finish();
}

bool Averager::all_skipped(size_t first) const {
  const auto skipped = [](const Sent& s) {
    return std::all_of(s.sections.begin(), s.sections.end(), [](const wire::Section& section) {
      return section.format.codec == wire::Codec::kNothing && !section.non_finite;
    });
  };
  return first < sent_.size() && std::all_of(sent_.begin() + static_cast<std::ptrdiff_t>(first), sent_.end(), skipped);
}

wire::Message Averager::skipped_message(const Shard& shard, bool owner) const {
  wire::Message message;
  for (const Piece& piece : shard.pieces)
    for (size_t part = 0; part < mechanism(piece, owner).parts(); ++part)
      message.sections.push_back({.format = {.codec = wire::Codec::kNothing}, .numel = piece.numel});
  message.payloads.resize(message.sections.size());
  return message;
}

void Averager::send_piece(const Piece& piece, bool owner, Delivery delivery, ConstView x, wire::Writer& out) {
  Parts parts(x.numel, out.payload(), states_.progress(piece.parameter).rates[owner]);
  const bool watched = delivery == Delivery::kSend && !owner;
  const bool now = steering_ && steering_->wants_error();
  if (watched) recorder_.watch(piece, x, states_, /*before=*/true, now);
  StepKey key = key_of(piece, owner);
  key.encode.chooser = tuner_.chooser(piece.parameter, piece.numel);
  if (!steps_.empty()) key.encode.step = steps_[piece.parameter];
  const bool changed = send_slice(mechanism(piece, owner), delivery, x,
                                  states_.of(owner ? Side::kOwner : Side::kWorker, piece), key, parts);
  for (const wire::Section& section : parts.sections()) out.add(section);
  if (watched) recorder_.watch(piece, x, states_, /*before=*/false, now);
  sent_.push_back({&piece, owner, x, parts.sections(), payloads_of(parts), parts.targets(), changed});
  recorder_.sent(piece, owner, parts.bytes(), changed ? parts.level() : -1);
}

std::vector<wire::Message> Averager::check_messages(std::span<const Bytes> messages, const Shard& shard, bool owner,
                                                    DType dtype, int first_rank) const {
  std::vector<wire::Message> out;
  for (size_t i = 0; i < messages.size(); ++i) {
    const int rank = first_rank + static_cast<int>(i);
    name_sender(rank, [&] { out.push_back(check_message(messages[i], shard, owner, dtype, rank)); });
  }
  return out;
}

wire::Message Averager::check_message(Bytes bytes, const Shard& shard, bool owner, DType dtype, int rank) const {
  const size_t sections = owner ? shard.down_sections : shard.up_sections;
  const bool skipped = bytes.empty();  // agreed by length
  wire::Message message = skipped ? skipped_message(shard, owner) : wire::parse(bytes);
  const wire::Header& header = message.header;
  const wire::Kind kind = owner ? wire::Kind::kAverage : wire::Kind::kWorker;
  if (!skipped) {
    if (header.rank != static_cast<uint32_t>(rank)) throw_wire("rank", rank, header.rank);
    if (header.kind != kind) throw_wire("kind", int(kind), int(header.kind));
    if (header.step != sequence_) throw_wire("step", sequence_, header.step);
    if (header.dtype != dtype) throw_wire("dtype", name_of(dtype), name_of(header.dtype));
    if (header.sections != sections) throw_wire("sections", sections, header.sections);
  }
  for (const Piece& piece : shard.pieces)
    check_slice(message, owner ? piece.down_section : piece.up_section, mechanism(piece, owner), piece.numel,
                states_.progress(piece.parameter).fresh);
  return message;
}

bool Averager::receive_piece(const Piece& piece, bool owner, std::span<const wire::Message> messages, View out) {
  const Mechanism& m = mechanism(piece, owner);
  std::vector<Arrived> from;
  from.reserve(messages.size());
  for (const wire::Message& message : messages)
    from.push_back(arrived(message, owner ? piece.down_section : piece.up_section, m));
  return receive_slice(m, from, states_.of(owner ? Side::kDelivered : Side::kReceived, piece), key_of(piece, owner),
                       out);
}

size_t Averager::average_own_shard(const Shard& shard, std::span<const Bytes> received, DType dtype, MutableBytes out) {
  const auto messages = check_messages(received, shard, /*owner=*/false, dtype, 0);
  const View means{arena(spare_memory_, shard.numel * size_of(dtype)).data(), dtype, shard.numel};
  wire::Writer writer(out, header_of(shard, /*owner=*/true, dtype));
  const size_t first = sent_.size();
  size_t at = 0;
  for (const Piece& piece : shard.pieces) {
    const Mechanism &up = mechanism(piece, false), &down = mechanism(piece, true);
    const View mean = means.slice(at, piece.numel);
    at += piece.numel;
    Delivery delivery = Delivery::kMark;
    {
      const auto timer = recorder_.decoding();
      if (receive_piece(piece, /*owner=*/false, messages, mean)) delivery = Delivery::kSend;
    }
    const auto timer = recorder_.encoding();
    if (delivery == Delivery::kSend) delivery = inspect(down, mean, states_.of(Side::kOwner, piece));
    if (config_.hold_unused && delivery == Delivery::kSend && !up.keeps_pace() && !down.keeps_pace() &&
        kernels::all_zero(mean))
      delivery = Delivery::kHold;
    send_piece(piece, /*owner=*/true, delivery, mean, writer);
  }
  return all_skipped(first) ? 0 : writer.finish();
}

void Averager::deliver(const Shard& shard, std::span<const wire::Message> messages, bool averages, View buffer,
                       size_t first_sent) {
  for (size_t i = 0; i < shard.pieces.size(); ++i) {
    const Piece& piece = shard.pieces[i];
    const size_t section = averages ? piece.down_section : piece.up_section;
    const bool marked = std::any_of(messages.begin(), messages.end(),
                                    [&](const wire::Message& m) { return m.sections[section].non_finite; });
    if (marked) undo_marked(sent_[first_sent + i]);
    receive_piece(piece, averages, messages, buffer.slice(piece.at, piece.numel));
  }
}

void Averager::undo_marked(const Sent& sent) {
  if (!mechanism(*sent.piece, sent.owner).keeps_pace()) retract(sent);  // reads the gradient: not yet overwritten
  recorder_.non_finite();
}

void Averager::take_back() {
  for (const Sent& sent : sent_) {
    const Parameter& p = parameters_[sent.piece->parameter];
    const bool receivers = p.up->keeps_pace() || (choice_.kind == ExchangeKind::kSharded && p.down->keeps_pace());
    torn_ = torn_ || receivers;
    if (!receivers) retract(sent);
  }
}

void Averager::retract(const Sent& sent) {
  if (!sent.changed_state) return;
  const auto state = states_.of(sent.owner ? Side::kOwner : Side::kWorker, *sent.piece);
  if (!mechanism(*sent.piece, sent.owner).retract({sent.sections, sent.payloads}, sent.x, state)) torn_ = true;
}

}  // namespace tsq
