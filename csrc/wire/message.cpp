#include "wire/message.h"

#include <bit>
#include <cassert>
#include <iterator>

#include "common/error.h"

namespace tsq::wire {

namespace {

constexpr uint8_t kMagic[4] = {'T', 'S', 'Q', 'M'};
constexpr uint8_t kNonFinite = 1, kWhole = 2;

/// What every message of this version begins with; returns the place of the header.
const uint8_t* check_magic(Bytes bytes) {
  if (bytes.size() < kHeaderBytes) throw_wire("length", concat("at least ", kHeaderBytes, " bytes"), bytes.size());
  const uint8_t* p = bytes.data();
  if (std::memcmp(p, kMagic, sizeof kMagic) != 0) throw_wire("magic", "'TSQM'", "something else");
  if (load<uint16_t>(p + 4) != kVersion) throw_wire("version", kVersion, load<uint16_t>(p + 4));
  return p;
}

Header read_header(Bytes bytes) {
  const uint8_t* p = check_magic(bytes);
  if (p[6] >= kDTypeCount) throw_wire("dtype", "0 to 3", int{p[6]});
  if (p[7] > 1) throw_wire("kind", "0 or 1", int{p[7]});
  Header header;
  header.dtype = static_cast<DType>(p[6]);
  header.kind = static_cast<Kind>(p[7]);
  header.sections = load<uint32_t>(p + 8);
  header.rank = load<uint32_t>(p + 12);
  header.step = load<uint64_t>(p + 16);
  header.length = load<uint64_t>(p + 24);
  if (header.length != bytes.size()) throw_wire("length", bytes.size(), header.length);
  if (header.sections > (bytes.size() - kHeaderBytes) / kSectionBytes)
    throw_wire("sections", concat("at most ", (bytes.size() - kHeaderBytes) / kSectionBytes), header.sections);
  return header;
}

/// What a codec may have in the fields of its section table entry.
struct Fields {
  uint8_t min_bits, max_bits, variant_bits;  ///< the last: those that may be set
  bool has_block;
  bool has_values = false;  ///< the variant's lowest bits are a ValueCoding, and bits and block belong to it
  uint32_t max_block = 4096;
  bool block_optional = false;  ///< 0 is legal too
  bool block_counts = false;    ///< the block is a number of blocks, 1 to max_block
};

constexpr Fields kLevels{2, 16, 0, true, false, 65536, true};
constexpr Fields kPowers{2, 6, 0, true, false, 65536, true};

constexpr Fields kSteps{0, 0, kBFloat16Steps, true, false, 65536, false, true};

constexpr Fields kFields[] = {
    {0, 0, 0, false},                                   // Codec::kRaw
    {0, 8, kFit | kBFloat16Scales, true},               // Codec::kQuantizer
    {1, 1, kBFloat16Scales, true},                      // Codec::kSign
    {2, 2, kBFloat16Scales, true},                      // Codec::kTernary
    {0, 0, 0, false},                                   // Codec::kNatural
    {0, 0, 0, false},                                   // Codec::kUniformStep
    {0, 0, kValueCodingMask, false, true},              // Codec::kTopK
    {0, 0, kPermuted | kValueCodingMask, false, true},  // Codec::kSubset
    {0, 0, 0, false},                                   // Codec::kSparseSign
    kLevels,                                            // Codec::kDithering
    kPowers,                                            // Codec::kNaturalDithering
    {0, 0, 3, false},                                   // Codec::kCast
    {0, 0, 0, false},                                   // Codec::kNothing
    kSteps,                                             // Codec::kSteppedLevels
};
constexpr int kCodecCount = static_cast<int>(std::size(kFields));

Section read_section(const uint8_t* p) {
  if (p[0] >= kCodecCount) throw_wire("codec", "a known number", int{p[0]});
  if (p[1] > (kNonFinite | kWhole)) throw_wire("flags", "0 to 3", int{p[1]});
  Fields fields = kFields[p[0]];
  const uint32_t block = load<uint32_t>(p + 4);
  if (p[3] & ~fields.variant_bits)
    throw_wire("variant", concat("no bits but those of ", int{fields.variant_bits}), int{p[3]});
  if (fields.has_values && (p[3] & kValueCodingMask) >= kQuantizedValues)
    fields.min_bits = 1, fields.max_bits = 8, fields.has_block = true;
  if (p[2] < fields.min_bits || p[2] > fields.max_bits)
    throw_wire("bits", concat(int{fields.min_bits}, " to ", int{fields.max_bits}), int{p[2]});
  const bool none = fields.block_optional && block == 0;
  if (fields.block_counts && (block < 1 || block > fields.max_block))
    throw_wire("block", concat("1 to ", fields.max_block), block);
  if (fields.has_block && !none && !fields.block_counts &&
      (block < 32 || block > fields.max_block || !std::has_single_bit(block)))
    throw_wire("block", concat(fields.block_optional ? "0 or " : "", "a power of two from 32 to ", fields.max_block),
               block);
  if (!fields.has_block && block != 0) throw_wire("block", 0, block);
  Section section;
  section.format = {static_cast<Codec>(p[0]), p[2], p[3], block};
  section.non_finite = p[1] & kNonFinite;
  section.whole = p[1] & kWhole;
  section.numel = load<uint64_t>(p + 8);
  section.bytes = load<uint64_t>(p + 16);
  return section;
}

}  // namespace

Message parse(Bytes bytes) {
  Message message;
  message.header = read_header(bytes);
  const size_t count = message.header.sections;
  message.sections.reserve(count);
  message.payloads.reserve(count);
  size_t at = overhead(count);
  for (size_t i = 0; i < count; ++i) {
    const Section section = read_section(bytes.data() + kHeaderBytes + kSectionBytes * i);
    if (section.bytes > bytes.size() - at) throw_wire("bytes", concat("at most ", bytes.size() - at), section.bytes);
    message.sections.push_back(section);
    message.payloads.push_back(bytes.subspan(at, section.bytes));
    at += section.bytes;
  }
  if (at != bytes.size()) throw_wire("length", at, bytes.size());
  return message;
}

size_t stated_length(Bytes bytes) {
  const uint64_t length = load<uint64_t>(check_magic(bytes) + 24);
  if (length < kHeaderBytes || length > bytes.size())
    throw_wire("length", concat(kHeaderBytes, " to ", bytes.size()), length);
  return length;
}

Writer::Writer(MutableBytes out, const Header& header) : out_(out), header_(header), end_(overhead(header.sections)) {
  assert(out.size() >= end_);
}

void Writer::add(const Section& section) {
  assert(added_ < header_.sections && section.bytes <= out_.size() - end_);
  uint8_t* p = out_.data() + kHeaderBytes + kSectionBytes * added_++;
  p[0] = static_cast<uint8_t>(section.format.codec);
  p[1] = static_cast<uint8_t>((section.non_finite ? kNonFinite : 0) | (section.whole ? kWhole : 0));
  p[2] = section.format.bits;
  p[3] = section.format.variant;
  store<uint32_t>(p + 4, section.format.block);
  store<uint64_t>(p + 8, section.numel);
  store<uint64_t>(p + 16, section.bytes);
  end_ += section.bytes;
}

size_t Writer::finish() {
  assert(added_ == header_.sections);
  uint8_t* p = out_.data();
  std::memcpy(p, kMagic, sizeof kMagic);
  store<uint16_t>(p + 4, kVersion);
  p[6] = static_cast<uint8_t>(header_.dtype);
  p[7] = static_cast<uint8_t>(header_.kind);
  store<uint32_t>(p + 8, header_.sections);
  store<uint32_t>(p + 12, header_.rank);
  store<uint64_t>(p + 16, header_.step);
  store<uint64_t>(p + 24, end_);
  return end_;
}

}  // namespace tsq::wire
