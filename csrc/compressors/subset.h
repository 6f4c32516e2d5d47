// Base of the compressors whose coordinates follow from a key that travels: no indices on the wire. Format:
// docs/wire_format.md, codec 7. A payload is a head (the key, and how it is to be read) and the values, in the
// ascending order of their coordinates.
#pragma once

#include <vector>

#include "compressors/values.h"

namespace tsq {

constexpr size_t kSubsetHeadBytes = 16;

/// The first 16 bytes of a payload. `word`: the number of coordinates (drawn), or rank + 2^32 * world size (permuted);
/// 0: a payload of zeros.
struct SubsetHead {
  uint64_t key = 0;
  uint64_t word = 0;
};

class Subset : public FusedCompressor {
 public:
  wire::Format format() const final;
  size_t granularity() const final { return values_.granularity(); }

  void validate(Bytes in, uint64_t n, DType dtype) const final;
  void decode_add(Bytes in, DType dtype, double scale, View acc) const final;
  void decode_mean(std::span<const Bytes> in, View out) const final;

 protected:
  Subset(bool permuted, Values values) : permuted_(permuted), values_(std::move(values)) {}

  const Values& values() const { return values_; }

  /// Encodes: draws the coordinates that `head` names and sends their values times `scale`.
  Encoded send(kernels::Form form, ConstView x, void* state, const EncodeKey& key, SubsetHead head, double scale,
               MutableBytes out) const;

 private:
  /// Most coordinates that a message of n elements may have; decoders of any message know none.
  virtual uint64_t max_count(uint64_t n) const = 0;

  bool permuted_;
  Values values_;
};

/// The 64-bit key that draws for a slice at `offset`, from the stream's.
constexpr uint64_t subset_key(PhiloxKey stream, uint64_t offset) {
  return mixed(stream.low | uint64_t{stream.high} << 32, offset);
}

/// Uniform among the subsets of `count` of n < 2^32 elements (Floyd; R. W. Floyd, J. Bentley, CACM 30(9), 1987):
/// ascending. O(n / 64 + min(count, n - count)).
void draw_subset(uint64_t key, uint64_t n, uint64_t count, std::vector<uint32_t>& out);

/// The share of `rank` in n < 2^32 elements dealt among `world` ranks: one of each group of `world` neighbours,
/// ascending.
void draw_share(uint64_t key, uint64_t n, uint32_t rank, uint32_t world, std::vector<uint32_t>& out);

/// The number of elements that draw_share gives.
uint64_t share_size(uint64_t key, uint64_t n, uint32_t rank, uint32_t world);

}  // namespace tsq
