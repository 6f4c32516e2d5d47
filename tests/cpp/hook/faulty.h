// A transport with one accident in it.
#pragma once

#include <chrono>
#include <cstring>
#include <random>
#include <thread>

#include "exchange/loopback.h"

namespace tsq::test {

enum class Fault {
  kSleep,            ///< less than the time limit
  kNaN,              ///< in a gradient: not of the transport
  kKill,             ///< the rank stops before a collective
  kLongSleep,        ///< longer than the time limit
  kAlteredReceived,  ///< some bytes of what one rank received
  kAlteredSent,      ///< of what one rank sent: all get the same
  kTruncated,        ///< zeros from some place on
  kReplayed,         ///< what came in the collective before
  kMixedUp,          ///< two ranks' bytes exchanged
  kConfig,           ///< another spec or seed than the other ranks: not of the transport
};
constexpr Fault kFaults[] = {Fault::kSleep,           Fault::kNaN,         Fault::kKill,      Fault::kLongSleep,
                             Fault::kAlteredReceived, Fault::kAlteredSent, Fault::kTruncated, Fault::kReplayed,
                             Fault::kMixedUp,         Fault::kConfig};

inline const char* name_of(Fault fault) {
  static constexpr const char* kNames[] = {"sleep",        "nan",       "kill",     "long sleep", "altered received",
                                           "altered sent", "truncated", "replayed", "mixed up",   "config"};
  return kNames[static_cast<int>(fault)];
}

/// Lets everything through until it is armed; then the collective number `target` from there has the accident.
class FaultyExchange final : public Exchange {
 public:
  FaultyExchange(std::shared_ptr<LoopbackGroup> group, int rank, std::chrono::milliseconds pause, uint64_t seed)
      : inner_(std::move(group), rank), pause_(pause), random_(seed) {}

  int rank() const override { return inner_.rank(); }
  int size() const override { return inner_.size(); }

  /// From the thread that makes the collectives.
  void arm(Fault fault, uint64_t target) { fault_ = fault, target_ = target, armed_ = true; }
  bool happened() const { return happened_; }

 private:
  void do_all_gather(Bytes mine, MutableBytes all) override {
    const std::vector<uint8_t> sent = before(mine);
    inner_.all_gather(sent, all);
    after(all);
  }
  void do_all_to_all(Bytes send, std::span<const size_t> send_sizes, MutableBytes recv,
                     std::span<const size_t> recv_sizes) override {
    const std::vector<uint8_t> sent = before(send);
    inner_.all_to_all(sent, send_sizes, recv, recv_sizes);
    after(recv);
  }
  void do_all_reduce_mean(View x) override {
    before({});
    inner_.all_reduce_mean(x);
    now_ = false;
  }

  std::vector<uint8_t> before(Bytes mine) {
    now_ = armed_ && target_-- == 0;
    if (now_) armed_ = false, happened_ = true;
    if (now_ && fault_ == Fault::kKill) throw std::runtime_error("killed");
    if (now_ && (fault_ == Fault::kSleep || fault_ == Fault::kLongSleep)) std::this_thread::sleep_for(pause_);
    std::vector<uint8_t> out(mine.begin(), mine.end());
    if (now_ && fault_ == Fault::kAlteredSent) alter(out);
    return out;
  }

  void after(MutableBytes received) {
    const std::vector<uint8_t> healthy(received.begin(), received.end());
    const size_t part = received.size() / static_cast<size_t>(size());
    if (now_) switch (fault_) {
        case Fault::kAlteredReceived:
          alter(received);
          break;
        case Fault::kTruncated:
          std::ranges::fill(received.subspan(random_() % received.size()), uint8_t{0});
          break;
        case Fault::kReplayed:
          std::memcpy(received.data(), last_.data(), std::min(last_.size(), received.size()));
          break;
        case Fault::kMixedUp:
          std::swap_ranges(received.begin(), received.begin() + static_cast<std::ptrdiff_t>(part),
                           received.end() - static_cast<std::ptrdiff_t>(part));
          break;
        default:
          break;
      }
    now_ = false;
    last_ = healthy;
  }

  /// One to eight bytes somewhere; every kind of damage that single bits and bursts make.
  void alter(MutableBytes bytes) {
    const size_t length = std::min<size_t>(bytes.size(), 1 + random_() % 8),
                 at = random_() % (bytes.size() - length + 1);
    for (size_t i = at; i < at + length; ++i) bytes[i] ^= static_cast<uint8_t>(1 + random_() % 255);
  }

  LoopbackExchange inner_;
  const std::chrono::milliseconds pause_;
  std::mt19937_64 random_;
  Fault fault_ = Fault::kSleep;
  uint64_t target_ = 0;
  bool armed_ = false, now_ = false, happened_ = false;
  std::vector<uint8_t> last_;
};

}  // namespace tsq::test
