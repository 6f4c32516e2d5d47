// Base of the compressors that send some entries of a vector with their indices. Format: docs/wire_format.md, codec 6.
// They differ in what they keep and by what they scale it; what is sent, read and subtracted from a residual is here.
#pragma once

#include "compressors/chooser.h"
#include "compressors/topk_select.h"
#include "compressors/values.h"

namespace tsq {

class SparseVector : public FusedCompressor {
 public:
  wire::Format format() const final { return values_.describe({.codec = wire::Codec::kTopK}); }
  size_t max_bytes(size_t n, DType dtype) const final;
  size_t zero_bytes(size_t n, DType dtype) const final;
  bool has_fixed_size() const final { return false; }
  double expected_bits(size_t n, DType dtype) const final;
  size_t granularity() const final { return values_.granularity(); }

  /// Hard maximum of the number of entries of n that are sent, and the number that is expected.
  virtual uint64_t max_entries(uint64_t n) const = 0;
  virtual double expected_entries(uint64_t n) const { return static_cast<double>(max_entries(n)); }

  void validate(Bytes in, uint64_t n, DType dtype) const final;
  void decode_add(Bytes in, DType dtype, double scale, View acc) const final;
  void decode_mean(std::span<const Bytes> in, View out) const final;
  void decode_update(std::span<const Bytes> in, double scale, View acc, View out) const final;

 protected:
  explicit SparseVector(Values values) : values_(std::move(values)) {}

  const Values& values() const { return values_; }

  /// For a chooser.
  EntryCode code_of(ConstView x) const;

  /// Throws ArgumentError, which begins with `name`, unless n < 2^32.
  static void check_length(const char* name, uint64_t n);

  /// Writes the entries of `kept`, whose values are then what a reader will read, and takes them from the residual
  /// (kResidual: `state` is e + x) or adds them to the shift. S: of state_dtype(x.dtype).
  template <class S>
  Encoded send(kernels::Form form, ConstView x, void* state, const EncodeKey& key, Selection<S>& kept,
               MutableBytes out) const;

  /// The payload of zeros that stands for input that is not finite.
  Encoded send_nothing(ConstView x, MutableBytes out) const;

 private:
  /// Calls f with the visit (compressors/accumulate.h) of these payloads' entries.
  template <class F>
  void visit(std::span<const Bytes> in, size_t n, DType dtype, double scale, const F& f) const;

  Values values_;
};

extern template Compressor::Encoded SparseVector::send(kernels::Form, ConstView, void*, const EncodeKey&,
                                                       Selection<float>&, MutableBytes) const;
extern template Compressor::Encoded SparseVector::send(kernels::Form, ConstView, void*, const EncodeKey&,
                                                       Selection<double>&, MutableBytes) const;

}  // namespace tsq
