// Senders and a receiver of one vector, without a network: W workers in one loop.
#pragma once

#include "mechanisms/endpoint.h"
#include "mechanisms/registry.h"
#include "vectors.h"

namespace tsq::test {

using Octets = std::vector<uint8_t>;

class Endpoints {
 public:
  Endpoints(const std::string& spec, size_t numel, uint32_t world, DType dtype = DType::kFloat32, uint64_t seed = 1)
      : config{parse_mechanism(spec), numel, world, dtype, seed}, receiver(config) {
    for (uint32_t r = 0; r < world; ++r) senders.emplace_back(config, r);
  }

  Octets send(size_t rank, const Vector& x) {
    Octets out(senders[rank].max_message_bytes());
    out.resize(senders[rank].send(x.view(), out));
    return out;
  }

  Vector receive(const std::vector<Octets>& messages) {
    Vector out(config.dtype, config.numel);
    const std::vector<Bytes> in(messages.begin(), messages.end());
    receiver.receive(in, out.view());
    return out;
  }

  Vector state(size_t rank) { return Vector(ConstView(senders[rank].state(0))); }
  bool has_state() const { return !config.mechanism->state_names().empty(); }

  EndpointConfig config;
  std::vector<Sender> senders;
  Receiver receiver;
};

/// The gradient of `rank` in `step`.
inline Vector gradient_of(DType dtype, size_t n, uint64_t rank, uint64_t step) {
  return random_vector(dtype, n, 1000 * step + rank);
}

inline constexpr size_t kSizes[] = {0, 1, 255, 256, 257, 5000};

}  // namespace tsq::test
