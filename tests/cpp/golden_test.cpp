// The golden messages of tests/golden, written by the plain-torch reference: decoded to the same values, encoded to the
// same bytes. index.txt has a line per message: file, elements, dtype, FNV-1a of the values as fp32, spec or "-", seed,
// step, rank, input, world size if it is not 1.
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <sstream>

#include "compressors/message.h"
#include "compressors/registry.h"
#include "vectors.h"

namespace tsq {
namespace {

using test::Vector;

struct Entry {
  std::string file, dtype, values, spec, input;
  size_t numel = 0;
  uint64_t seed = 0, step = 0;
  uint32_t rank = 0, world_size = 1;
};

std::string read_file(const std::string& name) {
  std::ifstream in(std::string(TSQ_GOLDEN_DIR) + "/" + name, std::ios::binary);
  EXPECT_TRUE(in) << name;
  return {std::istreambuf_iterator<char>(in), {}};
}

std::vector<Entry> index() {
  std::vector<Entry> out;
  std::istringstream lines(read_file("index.txt"));
  for (std::string line; std::getline(lines, line);) {
    std::vector<std::string> fields;
    std::istringstream in(line);
    for (std::string field; std::getline(in, field, '\t');) fields.push_back(field);
    if (fields.size() == 9) fields.emplace_back("1");
    if (fields.size() != 10) throw std::runtime_error("index.txt: " + line);
    out.push_back({fields[0], fields[2], fields[3], fields[4], fields[8], std::stoull(fields[1]),
                   std::stoull(fields[5]), std::stoull(fields[6]), static_cast<uint32_t>(std::stoull(fields[7])),
                   static_cast<uint32_t>(std::stoull(fields[9]))});
  }
  return out;
}

DType dtype_of(const std::string& name) {
  for (const DType dtype : test::kAllDTypes)
    if (name == name_of(dtype)) return dtype;
  throw std::runtime_error(name);
}

/// Of the values as fp32; every NaN is the quiet one, every zero positive.
std::string fnv1a(const Vector& x) {
  uint64_t h = 0xCBF29CE484222325u;
  for (size_t i = 0; i < x.size(); ++i) {
    const auto value = static_cast<float>(x[i]);
    uint32_t bits = std::isnan(value) ? 0x7FC00000u : value == 0 ? 0u : std::bit_cast<uint32_t>(value);
    for (int k = 0; k < 4; ++k, bits >>= 8) h = (h ^ (bits & 0xFF)) * 0x100000001B3u;
  }
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(h));
  return text;
}

uint64_t mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

/// "runs COUNT PATTERN ..." or "sum4 SALT EXPONENT RAMP EVERY", as make_golden.py's make_input.
Vector make_input(const Entry& entry) {
  const DType dtype = dtype_of(entry.dtype);
  Vector x(dtype, entry.numel);
  std::istringstream in(entry.input);
  std::string kind, pattern;
  in >> kind;
  if (kind == "runs") {
    auto* to = x.view().as<uint8_t>();
    for (size_t count; in >> count >> pattern;) {
      const uint64_t bits = std::stoull(pattern, nullptr, 16);
      for (; count > 0; --count, to += size_of(dtype)) std::memcpy(to, &bits, size_of(dtype));
    }
    return x;
  }
  uint64_t salt = 0, every = 1;
  int exponent = 0, ramp = 0;
  in >> salt >> exponent >> ramp >> every;
  for (uint64_t i = 0; i < entry.numel; i += every) {
    const uint64_t h = mix((salt << 32) + i);
    double v = -131070.0;
    for (int shift = 0; shift < 64; shift += 16) v += static_cast<double>(h >> shift & 0xFFFF);
    if (dtype == DType::kFloat64) v += static_cast<double>(h & 0xFFFF) * 0x1p-30;
    x.set(i, std::ldexp(v, exponent - ramp * static_cast<int>(i / 64)));
  }
  return x;
}

TEST(Golden, DecodesToTheReferencesValues) {
  const std::vector<Entry> entries = index();
  EXPECT_GT(entries.size(), 30u);
  for (const Entry& entry : entries) {
    const std::string data = read_file(entry.file);
    const std::vector<uint8_t> bytes(data.begin(), data.end());
    uint64_t numel = 0;
    const wire::Message message = check_message(bytes, &numel);
    EXPECT_EQ(numel, entry.numel) << entry.file;
    EXPECT_STREQ(name_of(message.header.dtype), entry.dtype.c_str());
    const Vector out(message.header.dtype, numel);
    decode_message(message, out.view());
    EXPECT_EQ(fnv1a(out), entry.values) << entry.file;
  }
}

TEST(Golden, EncodesToTheReferencesBytes) {
  size_t encoded = 0;
  for (const Entry& entry : index()) {
    if (entry.spec == "-") continue;
    const CompressorPtr c = parse_compressor(entry.spec);
    const Vector x = make_input(entry);
    std::vector<uint8_t> out(max_message_bytes(*c, x.size(), x.view().dtype));
    out.resize(encode_message(*c, x.view(), entry.seed, entry.step, entry.rank, out, entry.world_size));
    EXPECT_EQ(std::string(out.begin(), out.end()), read_file(entry.file)) << entry.file;
    ++encoded;
  }
  EXPECT_GT(encoded, 30u);
}

}  // namespace
}  // namespace tsq
