#include "mechanisms/endpoint.h"

#include "common/error.h"
#include "mechanisms/section.h"

namespace tsq {

namespace {

void check_config(const EndpointConfig& config) {
  if (config.world_size == 0) throw ArgumentError("world_size: expected at least 1, got 0");
}

}  // namespace

Sender::Sender(const EndpointConfig& config, uint32_t rank) : config_(config), rank_(rank) {
  check_config(config);
  if (rank >= config.world_size)
    throw ArgumentError(concat("rank: expected less than world_size = ", config.world_size, ", got ", rank));
  for (size_t i = 0; i < config.mechanism->state_names().size(); ++i) {
    storage_.emplace_back(config.numel, state_dtype(config.dtype));
    views_.push_back(storage_.back().view());
  }
}

size_t Sender::max_message_bytes() const {
  return wire::overhead(1) + config_.mechanism->compressor().max_bytes(config_.numel, config_.dtype);
}

size_t Sender::send(ConstView x, MutableBytes out) {
  if (x.numel != config_.numel || x.dtype != config_.dtype)
    throw ArgumentError(concat("gradient: expected ", config_.numel, " elements of ", name_of(config_.dtype), ", got ",
                               x.numel, " of ", name_of(x.dtype)));
  const StreamId stream{.seed = config_.seed, .step = step_, .rank = rank_};
  wire::Writer writer(out, {.dtype = x.dtype, .sections = 1, .rank = rank_, .step = step_});
  const Mechanism& mechanism = *config_.mechanism;
  const EncodeKey key = encode_key(stream, 0, config_.world_size);
  writer.add(send_section(mechanism, inspect(mechanism, x, views_), x, views_, key, writer.payload()));
  ++step_;
  return writer.finish();
}

Receiver::Receiver(const EndpointConfig& config) : config_(config) { check_config(config); }

void Receiver::receive(std::span<const Bytes> messages, View out) const {
  if (messages.size() != config_.world_size)
    throw ArgumentError(
        concat("messages: expected ", config_.world_size, ", one from every rank, got ", messages.size()));
  if (out.numel != config_.numel || out.dtype != config_.dtype)
    throw ArgumentError(concat("out: expected ", config_.numel, " elements of ", name_of(config_.dtype)));
  std::vector<wire::Message> by_rank(messages.size());
  std::vector<bool> seen(messages.size(), false);
  uint64_t step = 0;
  for (size_t i = 0; i < messages.size(); ++i) {
    wire::Message message = wire::parse(messages[i]);
    const wire::Header& header = message.header;
    if (header.rank >= messages.size() || seen[header.rank])
      throw_wire("rank", concat("each of 0 to ", messages.size() - 1, " once"), header.rank);
    if (i == 0) step = header.step;
    if (header.step != step) throw_wire("step", step, header.step);
    if (header.kind != wire::Kind::kWorker) throw_wire("kind", "a worker's message", "an average");
    if (header.dtype != config_.dtype) throw_wire("dtype", name_of(config_.dtype), name_of(header.dtype));
    if (header.sections != 1) throw_wire("sections", 1, header.sections);
    check_section(message, 0, *config_.mechanism, config_.numel);
    seen[header.rank] = true;
    by_rank[header.rank] = std::move(message);
  }
  receive_section(*config_.mechanism, by_rank, 0, out);
}

}  // namespace tsq
