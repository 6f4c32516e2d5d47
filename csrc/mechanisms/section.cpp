#include "mechanisms/section.h"

#include <algorithm>
#include <cmath>

#include "common/error.h"
#include "compressors/identity.h"
#include "compressors/message.h"
#include "kernels/quantizer.h"

namespace tsq {

Delivery inspect(const Mechanism& mechanism, ConstView x, std::span<const View> state) {
  if (mechanism.state_names().empty() || kernels::all_ordinary(x)) return Delivery::kSend;
  const bool finite = std::all_of(state.begin(), state.end(), [&](const View& v) { return finite_with(x, v); });
  return finite ? Delivery::kSend : Delivery::kMark;
}

bool send_slice(const Mechanism& mechanism, Delivery delivery, ConstView x, std::span<const View> state,
                const StepKey& key, Parts& out) {
  if (delivery == Delivery::kSend) {
    if (mechanism.send(x, state, key, out)) return true;
    delivery = Delivery::kMark;  // with state and inspected: only if finite x and finite state overflow together
  }
  fill_void(mechanism, x.dtype, key.first, delivery == Delivery::kMark, out);
  return false;
}

void fill_void(const Mechanism& mechanism, DType dtype, bool first, bool marked, Parts& out) {
  out.clear();
  const bool whole = first && mechanism.starts_dense();
  for (size_t part = 0; part < mechanism.parts(); ++part) {
    if (!mechanism.has_fixed_size(first) || (whole && part > 0)) {
      out.skip();
    } else {
      const CompressorPtr c = whole ? std::make_shared<Identity>() : mechanism.codecs(part)[0];
      const size_t bytes = c->zero_bytes(out.numel(), dtype);
      std::fill_n(out.room().begin(), bytes, uint8_t{0});
      out.add(c->format(), bytes, whole);
    }
    out.sections().back().non_finite = marked;
  }
}

std::vector<Bytes> payloads_of(const Parts& parts) {
  std::vector<Bytes> out;
  size_t at = 0;
  for (const wire::Section& s : parts.sections()) {
    out.push_back(parts.payload().subspan(at, s.bytes));
    at += s.bytes;
  }
  return out;
}

namespace {

/// Throws WireError unless one of the compressors, which share the section's format, may have written it: the levels of
/// a ladder differ in what their format does not say (TopK's k).
void validate_as_one_of(std::span<const CompressorPtr> legal, const wire::Message& message, size_t index) {
  for (const CompressorPtr& c : legal.first(legal.size() - 1)) {
    try {
      return validate_section(*c, message, index);
    } catch (const WireError&) {  // perhaps the next one
    }
  }
  validate_section(*legal.back(), message, index);
}

}  // namespace

void check_slice(const wire::Message& message, size_t index, const Mechanism& mechanism, size_t numel, bool first) {
  for (size_t part = 0; part < mechanism.parts(); ++part) {
    const wire::Section& section = message.sections[index + part];
    if (section.numel != numel) throw_wire("numel", numel, section.numel);
    if (section.non_finite != message.sections[index].non_finite)
      throw_wire("flags", "those of the first part", "others");
    std::vector<CompressorPtr> legal = mechanism.codecs(part);
    const bool whole_step = first && mechanism.starts_dense();
    if (section.whole && part == 0 && mechanism.may_send_whole(first))
      legal = {std::make_shared<Identity>()};
    else if (section.whole)
      throw_wire("flags", "an increment", "a whole vector");
    else if (section.format.codec == wire::Codec::kNothing && (whole_step || !mechanism.has_fixed_size(first)))
      legal = {decoder_for(section.format)};
    const auto others = std::remove_if(legal.begin(), legal.end(),
                                       [&](const CompressorPtr& c) { return c->format() != section.format; });
    legal.erase(others, legal.end());
    if (legal.empty())
      throw_wire("section", concat("one of ", mechanism.codecs(part)[0]->spec()), "another codec or other parameters");
    validate_as_one_of(legal, message, index + part);
  }
}

Arrived arrived(const wire::Message& message, size_t index, const Mechanism& mechanism) {
  const size_t parts = mechanism.parts();
  return {std::span(message.sections).subspan(index, parts), std::span(message.payloads).subspan(index, parts)};
}

bool receive_slice(const Mechanism& mechanism, std::span<const Arrived> from, std::span<const View> state,
                   const StepKey& key, View out) {
  mechanism.receive(from, state, key, out);
  if (!any_non_finite(from)) return true;
  fill_nan(out);
  return false;
}

void add_aims(std::span<const wire::Section> sections, std::span<const std::optional<double>> targets,
              std::vector<Aim>& aims) {
  aims.resize(std::max(aims.size(), sections.size()));
  for (size_t part = 0; part < sections.size(); ++part) {
    if (!targets[part] || sections[part].whole) continue;
    aims[part].wanted_bits += *targets[part] * static_cast<double>(sections[part].numel);
    aims[part].bytes += sections[part].bytes;
  }
}

void next_rates(std::span<const Aim> aims, std::vector<double>& rates) {
  if (rates.size() < aims.size()) rates.resize(aims.size(), 1.0);
  for (size_t part = 0; part < aims.size(); ++part) {
    const double wanted = aims[part].wanted_bits, got = 8.0 * static_cast<double>(aims[part].bytes);
    if (got < 0.1 * wanted || wanted == 0) continue;
    rates[part] = std::clamp(rates[part] * std::clamp(std::sqrt(wanted / got), 0.8, 1.25), 0.1, 10.0);
  }
}

}  // namespace tsq
