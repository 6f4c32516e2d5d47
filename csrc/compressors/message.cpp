#include "compressors/message.h"

#include <algorithm>
#include <limits>

#include "common/convert.h"
#include "common/error.h"

namespace tsq {

size_t max_message_bytes(const Compressor& compressor, size_t n, DType dtype) {
  return wire::overhead(1) + compressor.max_bytes(n, dtype);
}

size_t encode_message(const Compressor& compressor, ConstView x, uint64_t seed, uint64_t step, uint32_t rank,
                      MutableBytes out, uint32_t world_size) {
  const CompressorPtr c = compressor.as_unbiased();
  wire::Writer writer(out, {.dtype = x.dtype, .sections = 1, .rank = rank, .step = step});
  const MutableBytes payload = writer.payload();
  auto sent = c->encode(x, encode_key({.seed = seed, .step = step, .rank = rank}, 0, world_size), payload);
  if (!sent.finite) {
    sent.bytes = c->zero_bytes(x.numel, x.dtype);
    std::fill_n(payload.begin(), sent.bytes, uint8_t{0});
  }
  writer.add({c->format(), !sent.finite, x.numel, sent.bytes});
  return writer.finish();
}

wire::Message check_message(Bytes bytes, uint64_t* numel) {
  wire::Message message = wire::parse(bytes);
  *numel = 0;
  for (size_t i = 0; i < message.sections.size(); ++i) {
    validate_section(*decoder_for(message.sections[i].format), message, i);
    *numel += message.sections[i].numel;
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

void fill_nan(View out) {
  with_element(out.dtype, [&](auto element) {
    using E = decltype(element);
    for (size_t i = 0; i < out.numel; ++i) E::store(out.data, i, std::numeric_limits<typename E::State>::quiet_NaN());
  });
}

}  // namespace tsq
