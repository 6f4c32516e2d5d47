#include "compressors/message.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/convert.h"
#include "common/error.h"

namespace tsq {

size_t max_message_bytes(const Compressor& compressor, size_t n, DType dtype) {
  return wire::overhead(1) + compressor.max_bytes(n, dtype);
}

size_t encode_message(const Compressor& compressor, ConstView x, uint64_t seed, uint64_t step, uint32_t rank,
                      MutableBytes out, uint32_t world_size) {
  return encode_message(compressor, x, {.seed = seed, .step = step, .rank = rank, .world_size = world_size}, out);
}

size_t encode_message(const Compressor& compressor, ConstView x, const Encoding& as, MutableBytes out) {
  const bool plain = as.form == kernels::Form::kPlain;
  const CompressorPtr c = plain ? compressor.as_unbiased() : compressor.as_contractive();
  wire::Writer writer(out, {.dtype = x.dtype, .sections = 1, .rank = as.rank, .step = as.step});
  const MutableBytes payload = writer.payload();
  const EncodeKey key = encode_key({.seed = as.seed, .step = as.step, .rank = as.rank}, 0, as.world_size);
  Compressor::Encoded sent{.finite = false};
  if (plain)
    sent = c->encode(x, key, payload);
  else if (finite_with(x, as.state))
    sent = as.form == kernels::Form::kResidual ? c->encode_residual(x, as.state, key, payload)
                                               : c->encode_shifted(x, as.state, key, payload);
  if (!sent.finite) {
    sent.bytes = c->zero_bytes(x.numel, x.dtype);
    std::fill_n(payload.begin(), sent.bytes, uint8_t{0});
  }
  writer.add({.format = c->format(), .non_finite = !sent.finite, .numel = x.numel, .bytes = sent.bytes});
  return writer.finish();
}

bool finite_with(ConstView x, const View& state) {
  if (kernels::all_ordinary(x)) return true;
  return with_element(x.dtype, [&](auto element) {
    using E = decltype(element);
    const auto* v = state.as<typename E::State>();
    for (size_t i = 0; i < x.numel; ++i)
      if (!std::isfinite(static_cast<float>(std::abs(E::load(x.data, i)) + std::abs(v[i])))) return false;
    return true;
  });
}

wire::Message check_message(Bytes bytes, uint64_t* numel) {
  wire::Message message = wire::parse(bytes);
  *numel = 0;
  for (size_t i = 0; i < message.sections.size(); ++i) {
    validate_section(*decoder_for(message.sections[i].format), message, i);
    const uint64_t more = message.sections[i].numel;
    if (more > kMaxDecoded - *numel)  // compared so that no sum wraps around
      throw_wire("numel", concat("at most 2^32 = ", kMaxDecoded, " in all"),
                 *numel == 0 ? concat(more) : concat(*numel, " and ", more, " more"));
    *numel += more;
  }
  return message;
}

void validate_section(const Compressor& compressor, const wire::Message& message, size_t index) {
  const wire::Section& section = message.sections[index];
  const Bytes payload = message.payloads[index];
  compressor.validate(payload, section.numel, message.header.dtype);
  const auto is_zero = [](uint8_t byte) { return byte == 0; };
  if (section.non_finite && !std::all_of(payload.begin(), payload.end(), is_zero))
    throw_wire("payload", "zeros in a marked section", "others");
}

void decode_message(const wire::Message& message, View out) {
  size_t begin = 0;
  for (size_t i = 0; i < message.sections.size(); ++i) {
    const View slice = out.slice(begin, message.sections[i].numel);
    if (message.sections[i].non_finite)
      fill_nan(slice);
    else
      decoder_for(message.sections[i].format)->decode_mean({&message.payloads[i], 1}, slice);
    begin += slice.numel;
  }
}

void decode_message_add(const wire::Message& message, double scale, View acc) {
  size_t begin = 0;
  for (size_t i = 0; i < message.sections.size(); ++i) {
    const View slice = acc.slice(begin, message.sections[i].numel);
    if (message.sections[i].non_finite)
      fill_nan(slice);
    else
      decoder_for(message.sections[i].format)->decode_add(message.payloads[i], message.header.dtype, scale, slice);
    begin += slice.numel;
  }
}

void fill_nan(View out) {
  with_element(out.dtype, [&](auto element) {
    using E = decltype(element);
    for (size_t i = 0; i < out.numel; ++i) E::store(out.data, i, std::numeric_limits<typename E::State>::quiet_NaN());
  });
}

}  // namespace tsq
