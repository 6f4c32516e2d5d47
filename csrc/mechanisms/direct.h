// Direct (DCGD): every step sends C(gradient); no state. Source: compressed gradient descent, docs/algorithms.md.
#pragma once

#include "mechanisms/mechanism.h"

namespace tsq {

class Direct final : public Mechanism {
 public:
  explicit Direct(const CompressorPtr& compressor) : written_(compressor), compressor_(compressor->as_unbiased()) {}

  std::string spec() const override { return "Direct(" + written_->spec() + ")"; }
  const Compressor& compressor() const override { return *compressor_; }
  std::span<const char* const> state_names() const override { return {}; }

  Compressor::Encoded send(ConstView x, std::span<const View>, const EncodeKey& key, MutableBytes out) const override {
    return compressor_->encode(x, key, out);
  }
  void retract(Bytes, ConstView, std::span<const View>) const override {}

 private:
  CompressorPtr written_;     // as the user wrote it
  CompressorPtr compressor_;  // with levels=None resolved
};

}  // namespace tsq
