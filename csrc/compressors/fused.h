// Base of the codecs whose three forms of encoding are one sweep with a parameter: they implement run().
#pragma once

#include "compressors/compressor.h"
#include "kernels/quantizer.h"

namespace tsq {

class FusedCompressor : public Compressor {
 public:
  Encoded encode(ConstView x, const EncodeKey& key, MutableBytes out) const final {
    return run(kernels::Form::kPlain, x, nullptr, key, out);
  }
  Encoded encode_residual(ConstView x, View e, const EncodeKey& key, MutableBytes out) const final {
    return run(kernels::Form::kResidual, x, e.data, key, out);
  }
  Encoded encode_shifted(ConstView x, View h, const EncodeKey& key, MutableBytes out) const final {
    return run(kernels::Form::kShifted, x, h.data, key, out);
  }

 private:
  /// `state`: x.numel elements of state_dtype(x.dtype), e or h; null for kPlain.
  virtual Encoded run(kernels::Form form, ConstView x, void* state, const EncodeKey& key, MutableBytes out) const = 0;
};

}  // namespace tsq
