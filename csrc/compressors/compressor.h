// The contract of a compressor: a stateless map R^n -> bytes -> R^n with a known class.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/bytes.h"
#include "common/convert.h"
#include "common/dtype.h"
#include "common/philox.h"
#include "wire/message.h"

namespace tsq {

class EntryChooser;

/// Where the randomness of one encoding comes from: the stream, and the place of the first element in its parameter;
/// and who encodes.
struct EncodeKey {
  PhiloxKey philox{};   ///< independent by rank
  uint64_t offset = 0;  ///< a multiple of Compressor::granularity()
  PhiloxKey shared{};   ///< the same on every rank
  uint32_t rank = 0;
  uint32_t world_size = 1;
  std::optional<float> step = {};  ///< of UniformStep, from common_step(); none: it chooses
  double rate = 1.0;  ///< factor on a target rate (Compressor::target_bits), set by the sender's controller
  const EntryChooser* chooser = nullptr;  ///< what sparse compressors send less than they may by; outlives the encoding
  /// What an error costs, by run of MixedQuantizer from the slice's first element on; empty: everywhere the same.
  std::span<const double> weights{};
};

/// The key of stream `id` (with id.shared false) in a world of `world_size` ranks; an average (id.averaged) is encoded
/// by its owner alone, a world of one.
inline EncodeKey encode_key(StreamId id, uint64_t offset, uint32_t world_size) {
  EncodeKey key{.philox = philox_key(id), .offset = offset};
  key.rank = id.averaged ? 0 : id.rank;
  key.world_size = id.averaged ? 1 : world_size;
  id.shared = true;
  key.shared = philox_key(id);
  return key;
}

/// What theory knows of a compressor on vectors of n elements (definitions: docs/algorithms.md).
///   unbiased:    E C(x) = x,  E|C(x)-x|^2 <= omega |x|^2
///   contractive: E|C(x)-x|^2 <= (1-alpha) |x|^2
struct Class {
  std::optional<double> omega;
  std::optional<double> alpha;
};

/// An upper bound of a payload's length as an expression in n, so that it can be evaluated for a symbol:
///   ceil(slope * n / 2^14) + constant
struct Capacity {
  static constexpr int64_t kUnit = 1 << 14;
  int64_t slope = 0;  ///< bytes per 2^14 elements
  int64_t constant = 0;

  /// `Int`: an integer, or a symbolic one.
  template <class Int>
  Int bytes(const Int& n) const {
    return (n * slope + (kUnit - 1)) / kUnit + constant;
  }
};

/// What a compressor may fit its steps or probabilities to: the noise counts as sum_j L_jj Var_j, or, where n_mu > 0
/// (DIANA+), as sum_j (1 + L_jj / n_mu) Var_j.
struct Tuning {
  std::vector<double> diagonal;  ///< L_jj >= 0 of every element
  double n_mu = 0;               ///< ranks times strong convexity
};

class Smoothness;
class Compressor;
using CompressorPtr = std::shared_ptr<const Compressor>;

/// Immutable and thread-safe. Encoding is a pure function of (x, state, key): the same bytes on every machine and
/// thread count.
class Compressor {
 public:
  virtual ~Compressor() = default;

  /// The spec that parses back to this compressor.
  virtual std::string spec() const = 0;

  /// What the section table says of a payload of this compressor.
  virtual wire::Format format() const = 0;

  virtual Class class_of(size_t n, uint32_t world_size = 1) const = 0;

  /// script-L: the smallest known number with E|C(x) - x|_L^2 <= script-L |x|^2; none if the map is not unbiased or
  /// nothing is known. As omega * lambda_max(L), or better.
  virtual std::optional<double> script_L(const Smoothness& L, size_t n, uint32_t world_size = 1) const;

  /// Throws ArgumentError if vectors of n elements cannot be encoded: a budget that does not fit them.
  virtual void check_numel(size_t) const {}

  /// This compressor for vectors of tuning.diagonal.size() elements, with its steps or probabilities fitted; null: it
  /// has none. What it writes is read by a compressor tuned alike. Throws ArgumentError if its budget does not fit.
  virtual CompressorPtr tuned(const Tuning&) const { return nullptr; }

  /// Bits per element that this compressor aims at where its rate depends on the data; none: it does not aim.
  virtual std::optional<double> target_bits() const { return std::nullopt; }

  /// This compressor with its open choices made for a mechanism that needs a contractive map (error feedback) or one
  /// that averages plain messages and wants an unbiased map where there is a choice. What was chosen by the user stays.
  virtual CompressorPtr as_contractive() const = 0;
  virtual CompressorPtr as_unbiased() const = 0;

  /// Hard maximum of a payload in bytes, and the expected number of bits, for n elements of `dtype`.
  virtual size_t max_bytes(size_t n, DType dtype) const = 0;
  virtual double expected_bits(size_t n, DType dtype) const = 0;

  /// At least max_bytes(n, dtype) for every n, where max_bytes is monotone and never more than the sum of those of two
  /// parts: n elements are at most n / 2^14 + 1 stretches of 2^14, or of granules where those have a length of their
  /// own.
  virtual Capacity capacity(DType dtype) const {
    const bool granular = has_fixed_size() && format().codec != wire::Codec::kSubset;
    return {.slope = static_cast<int64_t>(max_bytes(Capacity::kUnit, dtype)),
            .constant = static_cast<int64_t>(max_bytes(granular ? granularity() : Capacity::kUnit, dtype))};
  }

  /// True if every payload has max_bytes: then lengths need not be exchanged.
  virtual bool has_fixed_size() const { return true; }

  /// Length of the all-zero payload that stands for zeros.
  virtual size_t zero_bytes(size_t n, DType dtype) const { return max_bytes(n, dtype); }

  /// A slice of a parameter must start at a multiple of this many elements.
  virtual size_t granularity() const = 0;

  /// True if the payload of a vector is, in a row, those of pieces that begin at multiples of granularity(), each
  /// encoded with the key of its own offset; that of the piece from element i on begins at byte max_bytes(i).
  virtual bool in_pieces() const { return false; }

  /// True if pieces that begin at multiples of granularity(), each a payload of its own, encoded with the key of its
  /// own offset and common_step() of the whole, decode to what the whole decodes to.
  virtual bool divisible() const { return in_pieces(); }

  /// What such pieces have in common, from the whole x (`residual`: e + x); none: nothing, or x is not finite.
  virtual std::optional<float> common_step(ConstView, const View* /*residual*/, const EncodeKey&) const {
    return std::nullopt;
  }

  /// True if EncodeKey::chooser has a say in what is sent.
  virtual bool takes_chooser() const { return false; }

  /// What a chooser chose for one vector v.
  struct Choice {
    uint64_t entries = 0;  ///< that were sent
    double factor = 0;     ///< in [0, 1]; TopK: |C(v)|^2 / |v|^2; SparseSign: S^2 / (T |v|^2); StochasticSparsifier:
                           ///< |v|^2 / E|C(v)|^2, C the unbiased map. NaN for v = 0
  };

  struct Encoded {
    size_t bytes = 0;    ///< the payload's length; codecs whose length depends on the data stay below max_bytes
    bool finite = true;  ///< false: part of the input was Inf or NaN; that part was not sent and its state not changed
    std::optional<Choice> choice = {};  ///< if a chooser made one
  };

  /// Encodes x into `out` (at least max_bytes).
  virtual Encoded encode(ConstView x, const EncodeKey& key, MutableBytes out) const = 0;

  /// m = C(e + x); e = (e + x) - m, in one sweep (EF14). e has state_dtype(x.dtype).
  virtual Encoded encode_residual(ConstView x, View e, const EncodeKey& key, MutableBytes out) const = 0;

  /// m = C(x - h); h = h + m, in one sweep (EF21, DIANA, 3PC). h has state_dtype(x.dtype).
  virtual Encoded encode_shifted(ConstView x, View h, const EncodeKey& key, MutableBytes out) const = 0;

  /// Throws WireError unless `in` is a legal payload for n elements of `dtype`. The decoders below may only be given
  /// valid payloads.
  virtual void validate(Bytes in, uint64_t n, DType dtype) const = 0;

  /// acc += scale * decode(in); `dtype` is the message's, acc is float32 or float64.
  virtual void decode_add(Bytes in, DType dtype, double scale, View acc) const = 0;

  /// out = (decode(in[0]) + decode(in[1]) + ...) / in.size(): added in this order in state_dtype(out.dtype), divided
  /// once, rounded once. out.dtype is the message's dtype.
  virtual void decode_mean(std::span<const Bytes> in, View out) const = 0;

  /// acc = ((acc + scale * decode(in[0])) + scale * decode(in[1])) + ..., as decode_add does it one after the other;
  /// then out = acc, rounded once. acc has state_dtype(out.dtype), out.dtype is the messages'. Codecs that can read a
  /// payload in parts do all of it in one sweep over memory, this one in turns.
  virtual void decode_update(std::span<const Bytes> in, double scale, View acc, View out) const {
    for (const Bytes& payload : in) decode_add(payload, out.dtype, scale, acc);
    assign(out, acc);
  }
};

/// The compressor that reads sections of this format (the format fixes the decoder; how it was encoded does not
/// matter).
CompressorPtr decoder_for(const wire::Format& format);

}  // namespace tsq
