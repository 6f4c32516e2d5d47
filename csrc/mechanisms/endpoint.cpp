#include "mechanisms/endpoint.h"

#include "common/error.h"
#include "mechanisms/section.h"

namespace tsq {

namespace {

void check_config(const EndpointConfig& config) {
  if (config.world_size == 0) throw ArgumentError("world_size: expected at least 1, got 0");
  config.mechanism->check_numel(config.numel);
}

}  // namespace

Sender::Sender(const EndpointConfig& config, uint32_t rank)
    : config_(config),
      rank_(rank),
      rates_(config.mechanism->parts(), 1.0),
      state_(config.mechanism->state_names(), config.numel, config.dtype) {
  check_config(config);
  if (rank >= config.world_size)
    throw ArgumentError(concat("rank: expected less than world_size = ", config.world_size, ", got ", rank));
}

size_t Sender::max_message_bytes() const {
  return wire::overhead(config_.mechanism->parts()) +
         config_.mechanism->max_bytes(config_.numel, config_.dtype, /*first=*/step_ == 0);
}

size_t Sender::send(ConstView x, MutableBytes out, const EntryChooser* chooser) {
  if (x.numel != config_.numel || x.dtype != config_.dtype)
    throw ArgumentError(concat("gradient: expected ", config_.numel, " elements of ", name_of(config_.dtype), ", got ",
                               x.numel, " of ", name_of(x.dtype)));
  const Mechanism& mechanism = *config_.mechanism;
  wire::Writer writer(
      out, {.dtype = x.dtype, .sections = static_cast<uint32_t>(mechanism.parts()), .rank = rank_, .step = step_});
  StepKey key{encode_key({.seed = config_.seed, .step = step_, .rank = rank_}, 0, config_.world_size), step_ == 0};
  key.encode.chooser = chooser;
  key.inspected = !mechanism.inspects();
  Parts parts(x.numel, writer.payload(), rates_);
  const Delivery delivery = key.inspected ? inspect(mechanism, x, state_.views()) : Delivery::kSend;
  const bool sent = send_slice(mechanism, delivery, x, state_.views(), key, parts);
  for (const wire::Section& section : parts.sections()) writer.add(section);
  level_ = sent ? parts.level() : -1;
  choice_ = sent ? parts.choice() : std::nullopt;
  if (sent) {
    std::vector<Aim> aims;
    add_aims(parts.sections(), parts.targets(), aims);
    next_rates(aims, rates_);
  }
  ++step_;
  return writer.finish();
}

Receiver::Receiver(const EndpointConfig& config)
    : config_(config), state_(config.mechanism->receiver_names(), config.numel, config.dtype) {
  check_config(config);
}

void Receiver::receive(std::span<const Bytes> messages, View out) {
  if (messages.size() != config_.world_size)
    throw ArgumentError(
        concat("messages: expected ", config_.world_size, ", one from every rank, got ", messages.size()));
  if (out.numel != config_.numel || out.dtype != config_.dtype)
    throw ArgumentError(concat("out: expected ", config_.numel, " elements of ", name_of(config_.dtype)));
  const Mechanism& mechanism = *config_.mechanism;
  std::vector<wire::Message> by_rank(messages.size());
  std::vector<bool> seen(messages.size(), false);
  uint64_t step = step_;
  for (size_t i = 0; i < messages.size(); ++i) {
    wire::Message message = wire::parse(messages[i]);
    const wire::Header& header = message.header;
    if (header.rank >= messages.size() || seen[header.rank])
      throw_wire("rank", concat("each of 0 to ", messages.size() - 1, " once"), header.rank);
    if (i == 0 && state_.size() == 0) step = header.step;
    if (header.step != step) throw_wire("step", step, header.step);
    if (header.kind != wire::Kind::kWorker) throw_wire("kind", "a worker's message", "an average");
    if (header.dtype != config_.dtype) throw_wire("dtype", name_of(config_.dtype), name_of(header.dtype));
    if (header.sections != mechanism.parts()) throw_wire("sections", mechanism.parts(), header.sections);
    check_slice(message, 0, mechanism, config_.numel, /*first=*/step == 0);
    seen[header.rank] = true;
    by_rank[header.rank] = std::move(message);
  }
  std::vector<Arrived> from;
  for (const wire::Message& message : by_rank) from.push_back(arrived(message, 0, mechanism));
  const StreamId stream{.seed = config_.seed, .step = step, .averaged = true};
  receive_slice(mechanism, from, state_.views(), {encode_key(stream, 0, config_.world_size), step == 0}, out);
  step_ = step + 1;
}

}  // namespace tsq
