// Messages: round trip, the worked example of docs/wire_format.md, and that no bytes get past the checks and do harm.
#include "wire/message.h"

#include <gtest/gtest.h>

#include "compressors/message.h"
#include "compressors/registry.h"
#include "vectors.h"

namespace tsq {
namespace {

using Octets = std::vector<uint8_t>;

Octets worked_example() {
  test::Vector x(DType::kFloat32, 40);
  for (size_t i = 0; i < 32; ++i) x.set(i, (static_cast<double>(i) - 16) / 16);
  x.set(35, 4);
  x.set(39, -4);
  const CompressorPtr c = parse_compressor("Quantizer(bits=2, block=32, levels='fit')");
  Octets out(max_message_bytes(*c, 40, DType::kFloat32));
  out.resize(encode_message(*c, x.view(), 0, 5, 1, out));
  return out;
}

/// Several sections of both codecs, one of them marked, one empty.
Octets mixed_message(DType dtype) {
  Octets out(1 << 16);
  wire::Writer writer(out, {.dtype = dtype, .kind = wire::Kind::kAverage, .sections = 5, .rank = 3, .step = 1u << 31});
  size_t i = 0;
  for (const char* spec : {"Quantizer(bits=4)", "Identity()", "Quantizer(bits=1, levels='fit')",
                           "Quantizer(bits=3, block=32)", "Identity()"}) {
    const CompressorPtr c = parse_compressor(spec)->as_unbiased();
    const test::Vector x = test::random_vector(dtype, i == 4 ? 0 : 40 + 10 * i, i);
    const MutableBytes payload = writer.payload();
    const size_t bytes = c->encode(x.view(), {philox_key({.parameter = i}), 0}, payload).bytes;
    if (i == 2) std::fill_n(payload.begin(), bytes, uint8_t{0});
    writer.add({.format = c->format(), .non_finite = i == 2, .numel = x.size(), .bytes = bytes});
    ++i;
  }
  out.resize(writer.finish());
  return out;
}

constexpr const char* kFields[] = {"length", "magic",   "version", "dtype", "kind",    "sections", "codec", "flags",
                                   "bits",   "variant", "block",   "bytes", "section", "payload",  "numel", "width"};

/// Checks and decodes; true if the bytes are a message. A WireError must name a field.
bool accepts(Bytes bytes, bool decode = true) {
  try {
    uint64_t numel = 0;
    const wire::Message message = check_message(bytes, &numel);
    EXPECT_EQ(message.header.length, bytes.size());
    EXPECT_EQ(message.header.sections, message.sections.size());
    uint64_t sum = 0;
    for (const wire::Section& s : message.sections) sum += s.numel;
    EXPECT_EQ(sum, numel);
    EXPECT_LE(numel, 8 * bytes.size());
    if (decode && numel <= 1'000'000) {
      const test::Vector out(message.header.dtype, numel);
      decode_message(message, out.view());
    }
    return true;
  } catch (const WireError& e) {
    const std::string text = e.what();
    const bool named =
        std::ranges::any_of(kFields, [&](const char* f) { return text.starts_with(concat("bad message: ", f)); });
    EXPECT_TRUE(named && test::contains(text, ": expected ") && test::contains(text, "found ")) << text;
    return false;
  }
}

/// What parse has read, written again.
Octets rewritten(const wire::Message& message) {
  Octets out(message.header.length);
  wire::Writer writer(out, message.header);
  for (size_t i = 0; i < message.sections.size(); ++i) {
    std::ranges::copy(message.payloads[i], writer.payload().begin());
    writer.add(message.sections[i]);
  }
  EXPECT_EQ(writer.finish(), out.size());
  return out;
}

TEST(Message, HasTheBytesOfTheWorkedExample) {
  const Octets expected = {
      0x54, 0x53, 0x51, 0x4D, 0x01, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00,  //
      0x05, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x60, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,  //
      0x01, 0x00, 0x02, 0x01, 0x20, 0x00, 0x00, 0x00, 0x28, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,  //
      0x28, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x5A, 0x5A, 0x8A, 0xBE, 0x00, 0x00, 0x80, 0x40,  //
      0x04, 0x04, 0x04, 0x08, 0x04, 0x04, 0x04, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01,  //
      0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x03, 0x03, 0x03, 0x03, 0x03, 0x03};
  EXPECT_EQ(worked_example(), expected);
  uint64_t numel = 0;
  const wire::Message message = check_message(expected, &numel);
  ASSERT_EQ(numel, 40u);
  const test::Vector x(DType::kFloat32, 40);
  decode_message(message, x.view());
  for (size_t i = 0; i < 40; ++i) {
    const double value = i < 7     ? -0x1.9F0F0Ep-1
                         : i < 16  ? -0x1.14B4B4p-2
                         : i < 26  ? 0x1.14B4B4p-2
                         : i < 32  ? 0x1.9F0F0Ep-1
                         : i == 35 ? 4.0
                         : i == 39 ? -4.0
                                   : 0.0;
    EXPECT_EQ(x[i], value) << i;
  }
}

TEST(Message, RoundTripsThroughWriterAndParser) {
  for (const DType dtype : test::kAllDTypes) {
    const Octets bytes = mixed_message(dtype);
    const wire::Message message = wire::parse(bytes);
    EXPECT_EQ(message.header.dtype, dtype);
    EXPECT_EQ(message.header.kind, wire::Kind::kAverage);
    EXPECT_EQ(message.header.rank, 3u);
    EXPECT_EQ(message.header.step, 1u << 31);
    ASSERT_EQ(message.sections.size(), 5u);
    EXPECT_TRUE(message.sections[2].non_finite);
    EXPECT_EQ(message.sections[2].format.variant, wire::Levels::kFit);
    EXPECT_EQ(message.sections[3].format.block, 32u);
    EXPECT_EQ(rewritten(message), bytes);
    const test::Vector out(dtype, 220);
    uint64_t numel = 0;
    decode_message(check_message(bytes, &numel), out.view());
    EXPECT_EQ(numel, 220u);
    EXPECT_TRUE(test::all_nan(out.view().slice(90, 60)));
    EXPECT_FALSE(std::isnan(out[89]) || std::isnan(out[150]));
  }
}

TEST(Message, WithoutSectionsIsAHeader) {
  Octets bytes(wire::kHeaderBytes);
  EXPECT_EQ(wire::Writer(bytes, {}).finish(), wire::kHeaderBytes);
  EXPECT_TRUE(accepts(bytes));
}

TEST(Message, EveryTruncationIsRejected) {
  for (const Octets& whole : {worked_example(), mixed_message(DType::kFloat16)}) {
    for (size_t n = 0; n < whole.size(); ++n) {
      const Octets cut(whole.begin(),
                       whole.begin() + static_cast<ptrdiff_t>(n));  // exact memory: ASan sees a read past it
      ASSERT_FALSE(accepts(cut)) << n;
    }
    Octets longer = whole;
    longer.push_back(0);
    EXPECT_FALSE(accepts(longer));
  }
}

TEST(Message, EverySingleByteChangeIsCheckedOrRejected) {
  for (const Octets& whole : {worked_example(), mixed_message(DType::kBFloat16)}) {
    ASSERT_TRUE(accepts(whole));
    Octets changed = whole;
    for (size_t i = 0; i < whole.size(); ++i) {
      size_t accepted = 0;
      for (int value = 0; value < 256; ++value) {
        changed[i] = static_cast<uint8_t>(value);
        if (!accepts(changed)) continue;
        ++accepted;
        ASSERT_EQ(rewritten(wire::parse(changed)), changed);  // nothing in a legal message goes unread
      }
      changed[i] = whole[i];
      const bool fixed = i < 6 || (i >= 8 && i < 12) || (i >= 24 && i < 32);  // magic, version, sections, length
      EXPECT_GE(accepted, 1u) << "byte " << i;
      if (fixed) {
        EXPECT_EQ(accepted, 1u) << "byte " << i;
      }
    }
  }
}

TEST(Message, RejectsSectionsWhoseLengthsOverflow) {
  const Octets whole = worked_example();
  for (const size_t field : {size_t{40}, size_t{48}}) {
    for (const uint64_t hostile : {uint64_t{65}, uint64_t{1} << 32, uint64_t{1} << 60, UINT64_MAX - 55, UINT64_MAX}) {
      Octets changed = whole;
      store<uint64_t>(&changed[field], hostile);
      EXPECT_EQ(accepts(changed), false) << field << ' ' << hostile;
    }
  }
  Octets changed = whole;
  store<uint32_t>(&changed[8], UINT32_MAX);
  EXPECT_FALSE(accepts(changed));
}

TEST(Message, SurvivesRandomBytes) {
  std::vector<Octets> seeds = {worked_example()};
  for (const DType dtype : test::kAllDTypes) seeds.push_back(mixed_message(dtype));
  std::mt19937 random(7);
  size_t accepted = 0;
  for (int trial = 0; trial < 100'000; ++trial) {
    Octets bytes = seeds[random() % seeds.size()];
    const uint32_t kind = random() % 4;
    if (kind == 0) {  // a valid prefix, then noise
      const size_t keep = random() % (bytes.size() + 1);
      bytes.resize(keep + random() % 64);
      for (size_t i = keep; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(random());
    } else if (kind == 1) {  // the head of one, the tail of another
      const Octets& other = seeds[random() % seeds.size()];
      bytes.resize(random() % (bytes.size() + 1));
      bytes.insert(bytes.end(), other.begin() + static_cast<ptrdiff_t>(random() % other.size()), other.end());
    }
    for (uint32_t n = kind < 2 ? random() % 2 : 1 + random() % 4; n > 0 && !bytes.empty(); --n) {
      const size_t at = random() % (random() % 2 ? bytes.size() : std::min<size_t>(bytes.size(), 160));
      bytes[at] =
          random() % 2 ? static_cast<uint8_t>(random()) : static_cast<uint8_t>(bytes[at] ^ (1u << random() % 8));
    }
    if (random() % 2 && bytes.size() >= 32)
      store<uint64_t>(&bytes[24], bytes.size());  // past the first check of length
    accepted += accepts(bytes);
  }
  EXPECT_GT(accepted, 1'000u);
}

}  // namespace
}  // namespace tsq
