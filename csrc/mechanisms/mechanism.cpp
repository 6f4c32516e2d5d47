#include "mechanisms/mechanism.h"

#include <algorithm>

#include "common/error.h"

namespace tsq {

size_t Mechanism::max_bytes(size_t n, DType dtype, bool first) const {
  size_t total = 0;
  for (size_t part = 0; part < parts(); ++part) {
    size_t largest = 0;
    for (const CompressorPtr& c : codecs(part)) largest = std::max(largest, c->max_bytes(n, dtype));
    total += largest;
  }
  return first && starts_dense() ? n * size_of(dtype) : total;
}

bool Mechanism::has_fixed_size(bool first) const {
  if (first && starts_dense()) return true;
  for (size_t part = 0; part < parts(); ++part) {
    const auto all = codecs(part);
    if (all.size() != 1 || !all[0]->has_fixed_size()) return false;
  }
  return true;
}

double Mechanism::expected_bits(size_t n, DType dtype) const {
  double bits = 0;
  for (size_t part = 0; part < parts(); ++part) bits += codecs(part)[0]->expected_bits(n, dtype);
  return bits;
}

size_t Mechanism::granularity() const {
  size_t largest = 1;
  for (size_t part = 0; part < parts(); ++part)
    for (const CompressorPtr& c : codecs(part)) largest = std::max(largest, c->granularity());
  return largest;
}

bool Mechanism::takes_chooser() const {
  for (size_t part = 0; part < parts(); ++part)
    for (const CompressorPtr& c : codecs(part))
      if (c->takes_chooser()) return true;
  return false;
}

std::optional<ThreePoint> Mechanism::three_point(size_t, uint32_t) const { return std::nullopt; }

MechanismPtr Mechanism::with_smoothness(const SmoothnessSet&) const {
  throw ArgumentError(concat("smoothness: expected none for ", spec(), ": Direct and DIANA take one"));
}

void Mechanism::check_numel(size_t n) const {
  if (const char* const kind = lacks_smoothness())
    throw ArgumentError(concat("smoothness: expected one of kind '", kind, "' for ", spec(), ", got none"));
  for (size_t part = 0; part < parts(); ++part)
    for (const CompressorPtr& c : codecs(part)) c->check_numel(n);
}

bool any_non_finite(std::span<const Arrived> from) {
  return std::any_of(from.begin(), from.end(), [](const Arrived& a) { return a.non_finite(); });
}

CompressorPtr reader_of(const wire::Section& section, const CompressorPtr& usual) {
  return usual->format() == section.format ? usual : decoder_for(section.format);
}

}  // namespace tsq
