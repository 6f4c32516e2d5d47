#include "mechanisms/adacgd.h"

#include <algorithm>

#include "common/error.h"
#include "common/expression.h"
#include "mechanisms/vectors.h"

namespace tsq {

namespace {

constexpr size_t kTypical = 1 << 20;  // elements: where the order of a ladder is checked

CompressorPtr finest(const std::vector<CompressorPtr>& ladder) {
  if (ladder.empty()) throw ArgumentError("AdaCGD: ladder: expected at least one compressor, got none");
  return ladder.back()->as_contractive();
}

}  // namespace

AdaCGD::AdaCGD(std::vector<CompressorPtr> ladder, std::optional<double> zeta, Init init)
    : EstimateReceiver(finest(ladder), {"shift", "gradient"}, init), written_(std::move(ladder)), zeta_(zeta) {
  if (zeta && !(*zeta >= 0)) throw ArgumentError(concat("AdaCGD: zeta: expected a number of at least 0, got ", *zeta));
  for (const CompressorPtr& c : written_) ladder_.push_back(c->as_contractive());
  for (size_t j = 1; j < ladder_.size(); ++j) {
    const auto lower = ladder_[j - 1]->class_of(kTypical).alpha, upper = ladder_[j]->class_of(kTypical).alpha;
    if (lower && upper && *lower > *upper)
      throw ArgumentError(concat("AdaCGD: ladder: expected compressors from cheap to accurate, got ",
                                 written_[j - 1]->spec(), " (alpha ", *lower, ") before ", written_[j]->spec(),
                                 " (alpha ", *upper, ")"));
  }
}

std::string AdaCGD::spec() const {
  std::string out = "AdaCGD([";
  for (const CompressorPtr& c : written_) out += (c == written_.front() ? "" : ", ") + c->spec();
  out += "]";
  if (zeta_) out += ", zeta=" + number_text(*zeta_);
  return out + init_text() + ")";
}

double AdaCGD::zeta(size_t n, uint32_t world_size) const {
  if (zeta_) return *zeta_;
  const auto alpha = compressor().class_of(n, world_size).alpha;
  return alpha ? (1 - *alpha) / contraction(*alpha) : 0.0;
}

bool AdaCGD::send(ConstView x, std::span<const View> state, const StepKey& key, Parts& out) const {
  const View &h = state[0], &y = state[1];
  if (key.first && starts_dense()) {
    assign(h, x);
    assign(y, x);
    return send_whole(x, key, out);
  }
  const ScratchVector r(x.numel, h.dtype), left(x.numel, h.dtype);
  subtract(x, h, r.view());
  const double size = squared_norm(r.view());
  // Without a previous gradient (first, from zero) no error is small enough but none.
  const double allowed = key.first ? 0.0 : zeta(x.numel, key.encode.world_size) * squared_distance(x, y);
  size_t level = 0;
  if (size <= allowed && !key.first) {
    out.skip();
  } else {
    for (level = 1; level <= ladder_.size(); ++level) {
      const size_t begin = out.bytes();
      if (!encode_level(level, x.dtype, r.view(), key, out)) return false;
      if (level == ladder_.size()) break;
      assign(left.view(), r.view());
      ladder_[level - 1]->decode_add(out.payload().subspan(begin), x.dtype, -1.0, left.view());
      if (squared_norm(left.view()) <= allowed) break;
      out.clear();
    }
    if (ladder_[level - 1]->format().codec == wire::Codec::kRaw && x.dtype == h.dtype)
      assign(h, x);
    else
      ladder_[level - 1]->decode_add(out.payload(), x.dtype, 1.0, h);
  }
  assign(y, x);
  out.set_level(static_cast<int>(level));
  return true;
}

bool AdaCGD::encode_level(size_t level, DType dtype, ConstView r, const StepKey& key, Parts& out) const {
  const Compressor& c = *ladder_[level - 1];
  Compressor::Encoded sent;
  if (r.dtype == dtype) {
    sent = c.encode(r, key.encode, out.room());
  } else {  // 16-bit gradients: values travel in their dtype
    const ScratchVector rounded(r.numel, dtype);
    assign(rounded.view(), r);
    sent = c.encode(rounded.view(), key.encode, out.room());
  }
  if (sent.finite) out.add(c.format(), sent.bytes);
  return sent.finite;
}

std::optional<ThreePoint> AdaCGD::three_point(size_t n, uint32_t world_size) const {
  const auto alpha = compressor().class_of(n, world_size).alpha;
  if (!alpha) return std::nullopt;
  return ThreePoint{contraction(*alpha), std::max((1 - *alpha) / contraction(*alpha), zeta(n, world_size))};
}

}  // namespace tsq
