// libFuzzer: any bytes as the payload of one section, whose table entry the first 16 bytes give. What the checks accept
// must decode without a fault, to finite values (but raw), and the same on every SIMD target, which must also accept
// the same.
//   TSQ_FUZZ_CODEC=1 codec_fuzz -max_len=4096 WORK_DIR SEEDS     the variable pins the codec's number; seeds:
//   make_corpus.py
//
//   codec, flags, bits, variant (u8 each) | block (u32) | dtype (u8) | 3 bytes unused | numel (u32) | payload
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <vector>

#include "common/buffer.h"
#include "common/convert.h"
#include "common/error.h"
#include "compressors/message.h"
#include "kernels/quantizer.h"

namespace tsq {
namespace {

constexpr size_t kEntry = 16;
constexpr uint64_t kMaxNumel = 70'000;  // more than one piece of a sweep, more than four segments of indices

/// A message of exactly its size, so that ASan sees a byte too far.
std::vector<uint8_t> message_around(const uint8_t* data, size_t size) {
  static const char* const pinned = std::getenv("TSQ_FUZZ_CODEC");
  std::vector<uint8_t> out(wire::overhead(1) + size - kEntry);
  wire::Section section;
  section.format = {static_cast<wire::Codec>(pinned != nullptr ? std::atoi(pinned) : data[0]), data[2], data[3],
                    load<uint32_t>(data + 4)};
  section.non_finite = data[1] & 1;
  section.whole = data[1] & 2;
  section.numel = load<uint32_t>(data + 12) % kMaxNumel;
  section.bytes = size - kEntry;
  wire::Writer writer(out, {.dtype = static_cast<DType>(data[8] % kDTypeCount), .sections = 1});
  std::copy(data + kEntry, data + size, writer.payload().begin());
  writer.add(section);
  writer.finish();
  return out;
}

void require(bool what) {
  if (!what) std::abort();
}

bool all_finite(const View& x) {
  return with_element(x.dtype, [&](auto element) {
    for (size_t i = 0; i < x.numel; ++i)
      if (!std::isfinite(decltype(element)::load(x.data, i))) return false;
    return true;
  });
}

/// Everything that the decoders say of one message, on the target now forced; nothing if it is refused.
std::optional<std::vector<Buffer>> decode(Bytes bytes) {
  uint64_t numel = 0;
  wire::Message message;
  try {
    message = check_message(bytes, &numel);
  } catch (const WireError&) {
    return std::nullopt;
  }
  const DType dtype = message.header.dtype;
  std::vector<Buffer> out;
  out.emplace_back(numel, dtype);
  decode_message(message, out.back().view());
  const CompressorPtr decoder = decoder_for(message.sections[0].format);
  const bool raw = message.sections[0].format.codec == wire::Codec::kRaw;
  for (const DType acc : {DType::kFloat32, DType::kFloat64}) {
    out.emplace_back(numel, acc);
    decoder->decode_add(message.payloads[0], dtype, 1.0, out.back().view());
    require(raw || dtype == DType::kFloat64 || all_finite(out.back().view()));
  }
  const std::vector<Bytes> three(3, message.payloads[0]);
  out.emplace_back(numel, dtype);
  decoder->decode_mean(three, out.back().view());
  return out;
}

bool same(const std::vector<Buffer>& a, const std::vector<Buffer>& b) {
  for (size_t i = 0; i < a.size(); ++i)
    if (a[i].bytes() != b[i].bytes() || std::memcmp(a[i].view().data, b[i].view().data, a[i].bytes()) != 0)
      return false;
  return true;
}

}  // namespace
}  // namespace tsq

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tsq;
  if (size < kEntry) return 0;
  const std::vector<uint8_t> message = message_around(data, size);
  const auto expected = decode(message);
  size_t count = 0;
  const char* const* targets = kernels::simd_targets(&count);
  for (size_t i = 1; i < count; ++i) {  // 0 is the one in use
    kernels::force_simd_target(targets[i]);
    const auto found = decode(message);
    require(found.has_value() == expected.has_value() && (!found || same(*found, *expected)));
  }
  kernels::force_simd_target(nullptr);
  return 0;
}
