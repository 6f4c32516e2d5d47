// A message: header, section table, payloads (docs/wire_format.md). Bytes <-> plain structs; knows no compressor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/bytes.h"
#include "common/dtype.h"

namespace tsq::wire {

constexpr size_t kHeaderBytes = 32;
constexpr size_t kSectionBytes = 24;
constexpr uint16_t kVersion = 1;

enum class Kind : uint8_t { kWorker = 0, kAverage = 1 };
enum class Codec : uint8_t {
  kRaw = 0,
  kQuantizer = 1,
  kSign = 2,
  kTernary = 3,
  kNatural = 4,
  kUniformStep = 5,
  kTopK = 6,  ///< any sparse vector
  kSubset = 7,
  kSparseSign = 8,
  kDithering = 9,
  kNaturalDithering = 10,
  kCast = 11,
  kNothing = 12,        ///< no payload: zeros, where a mechanism skips
  kSteppedLevels = 13,  ///< levels of one step per block
};
/// Format::bits of codec 1 where every run of blocks has its own.
constexpr uint8_t kMixedWidths = 0;
/// Format::variant of codec 1, bit 0.
enum Levels : uint8_t { kUnbiased = 0, kFit = 1 };
/// Format::variant of codecs 1 to 3, bit 1: scales of 2 bytes.
constexpr uint8_t kBFloat16Scales = 2;
/// Format::variant of codec 13, bit 0: steps of 2 bytes.
constexpr uint8_t kBFloat16Steps = 1;
/// Format::variant of codecs 6 and 7, bits 0 to 2: how the values are coded. From kQuantizedValues on, by a quantizer:
/// kQuantizedValues + the variant of codec 1.
enum ValueCoding : uint8_t {
  kNativeValues = 0,
  kFloat32Values = 1,
  kFloat16Values = 2,
  kBFloat16Values = 3,
  kQuantizedValues = 4,
};
constexpr uint8_t kValueCodingMask = 7;
/// Format::variant of codec 7, bit 3: the coordinates are one rank's share of a permutation, not a drawn subset.
constexpr uint8_t kPermuted = 8;

struct Header {
  DType dtype = DType::kFloat32;
  Kind kind = Kind::kWorker;
  uint32_t sections = 0;
  uint32_t rank = 0;
  uint64_t step = 0;
  uint64_t length = 0;
};

/// How a section is coded: everything that its decoder must know besides the header's dtype.
struct Format {
  Codec codec = Codec::kRaw;
  uint8_t bits = 0;
  uint8_t variant = 0;  ///< a choice that the codec defines
  uint32_t block = 0;

  bool operator==(const Format&) const = default;
};

struct Section {
  Format format;
  bool non_finite = false;
  bool whole = false;  ///< the vector itself, where a mechanism otherwise sends increments of an estimate
  uint64_t numel = 0;
  uint64_t bytes = 0;
};

/// A parsed message; `payloads` point into the bytes that were parsed.
struct Message {
  Header header;
  std::vector<Section> sections;
  std::vector<Bytes> payloads;
};

constexpr size_t overhead(size_t sections) { return kHeaderBytes + kSectionBytes * sections; }

/// Parses and checks header, table and every length; O(sections). Throws WireError naming field, expected, found.
/// Payloads are not looked into: that is their codec's `validate`.
Message parse(Bytes bytes);

/// The length that a message's header states, where `bytes` may go on behind the message (memory of fixed capacity).
/// Throws WireError unless `bytes` begins with a header and has that many bytes. The rest is for parse() to check.
size_t stated_length(Bytes bytes);

/// Writes a message front to back into memory of at least overhead(sections) + payloads; does not own it.
class Writer {
 public:
  /// header.sections sections will follow; header.length is set by finish().
  Writer(MutableBytes out, const Header& header);

  /// Where the next payload goes: all that is left of the memory.
  MutableBytes payload() const { return out_.subspan(end_); }

  /// Adds the entry of the section whose section.bytes bytes were written to payload().
  void add(const Section& section);

  /// Completes the header; returns the length of the message. All sections must have been added.
  size_t finish();

 private:
  MutableBytes out_;
  Header header_;
  size_t added_ = 0;
  size_t end_;
};

}  // namespace tsq::wire
