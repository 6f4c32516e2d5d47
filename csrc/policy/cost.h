// What a message costs: bits, packets, an affine law, or one that is fitted to what the link was seen to take.
// Sources: Khirirat, Magnusson, Aytekin, Johansson 2021 (cost models of CAT); docs/cat.md.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

namespace tsq {

enum class Unit : uint8_t { kBits, kBytes, kSeconds };

/// "bits", "bytes", "seconds".
const char* name_of(Unit unit);

/// What T entries of one vector take on the wire, in bits: overhead + scale + T * entry.
struct EntryBits {
  double entry = 0;     ///< of one entry: its index and its value
  double scale = 0;     ///< sent once beside the entries
  double overhead = 0;  ///< headers: what a message has anyway
};

/// The price of T entries in a cost model's unit:
///   per_packet = 0:  c0 + c1 T
///   else             c0 + c1 (number of packets of `per_packet` entries, the first one shorter by `lead`)
struct EntryCost {
  double c0 = 0, c1 = 0;
  double per_packet = 0;
  double lead = 0;  ///< entries' worth of room in the first packet that is taken already

  bool affine() const { return per_packet == 0; }
  double operator()(double entries) const;
};

/// Immutable but for MeasuredCost; thread-safe. Terms are not negative, and not all zero.
class CostModel {
 public:
  virtual ~CostModel() = default;
  virtual Unit unit() const = 0;
  virtual EntryCost of(const EntryBits& bits) const = 0;

  /// What a message of so many bytes costs, if that follows from its length and is the same for whoever asks.
  virtual std::optional<double> of_bytes(double) const { return std::nullopt; }

  /// What this model says now, as one that never changes. `self` owns this object.
  virtual std::shared_ptr<const CostModel> fixed(const std::shared_ptr<const CostModel>& self) const { return self; }
};

/// Bits on the wire, headers aside: C(T) = scale + T entry. With largest entries (TopK) one entry is always the best
/// buy.
class BitCost final : public CostModel {
 public:
  Unit unit() const override { return Unit::kBits; }
  EntryCost of(const EntryBits& bits) const override { return {.c0 = bits.scale, .c1 = bits.entry}; }
  std::optional<double> of_bytes(double bytes) const override { return 8 * bytes; }
};

/// Bytes in packets: C(T) = message + packet * ceil(P(T) / payload). Default: TCP over Ethernet.
class PacketCost final : public CostModel {
 public:
  struct Config {
    double payload = 1460;  ///< bytes of a packet that are ours
    double packet = 1538;   ///< cost of a packet
    double message = 0;     ///< cost of a message besides
    bool straddle = true;   ///< an entry may begin in one packet and end in the next, headers count; else neither
  };
  /// Throws ArgumentError unless payload and packet are positive and message is not negative.
  explicit PacketCost(const Config& config);
  Unit unit() const override { return Unit::kBytes; }
  EntryCost of(const EntryBits& bits) const override;
  std::optional<double> of_bytes(double bytes) const override;

 private:
  Config config_;
};

/// C(T) = c0 + c1 T, in any unit; c1 is per entry.
class AffineCost final : public CostModel {
 public:
  /// Throws ArgumentError if a term is negative or not finite, or both are zero.
  AffineCost(double c0, double c1, Unit unit);
  Unit unit() const override { return unit_; }
  EntryCost of(const EntryBits&) const override { return {.c0 = c0_, .c1 = c1_}; }

 private:
  double c0_, c1_;
  Unit unit_;
};

/// seconds = c0 + c1 * bytes.
struct Line {
  double c0 = 0, c1 = 0;
};

/// Seconds over a link of this latency and time per byte.
class LineCost final : public CostModel {
 public:
  explicit LineCost(const Line& line) : line_(line) {}
  Unit unit() const override { return Unit::kSeconds; }
  EntryCost of(const EntryBits& bits) const override;

 private:
  Line line_;
};

/// Seconds, from what messages were seen to take: least squares with c0, c1 >= 0, older samples counting less.
class MeasuredCost final : public CostModel {
 public:
  struct Config {
    Line prior = {1e-4, 8e-9};  ///< until samples say otherwise; 0.1 ms and 1 Gbit/s
    double keep = 0.98;         ///< weight of a sample when the next one comes, in (0, 1]: a memory of 1 / (1 - keep)
  };
  /// Throws ArgumentError.
  explicit MeasuredCost(const Config& config);
  MeasuredCost() : MeasuredCost(Config{}) {}

  /// A message of `bytes` took `seconds`. O(1). Throws ArgumentError unless both are finite and not negative.
  void observe(double bytes, double seconds);

  /// The line of smallest squared error among those with c0, c1 >= 0. Samples of one size alone say how much, not
  /// which part of it grows: the proportions are then those of the prior. Without samples: the prior.
  Line fit() const;
  double seconds(double bytes) const;
  uint64_t samples() const;

  /// What has been learnt, for a checkpoint: with it another object of the same config goes on as this one would.
  struct State {
    double samples = 0, weight = 0;           ///< the weight of all samples: the last one's is 1
    double mean_bytes = 0, mean_seconds = 0;  ///< weighted means ...
    double variance = 0, covariance = 0;      ///< ... and sums of products of deviations from them
  };
  State state() const;
  /// Throws ArgumentError, with nothing changed, unless all are finite, only the covariance is negative, and there is a
  /// weight where there are samples.
  void set_state(const State& state);

  Unit unit() const override { return Unit::kSeconds; }
  EntryCost of(const EntryBits& bits) const override { return LineCost(fit()).of(bits); }
  std::shared_ptr<const CostModel> fixed(const std::shared_ptr<const CostModel>&) const override {
    return std::make_shared<LineCost>(fit());
  }

 private:
  Line fit_locked() const;

  const Config config_;
  mutable std::mutex mutex_;
  State state_;
};

}  // namespace tsq
