#include "compressors/registry.h"

#include <gtest/gtest.h>

#include "vectors.h"

namespace tsq {
namespace {

TEST(CompressorRegistry, SpecsReadBack) {
  for (int bits = 1; bits <= 8; ++bits) {
    for (const char* rest :
         {"", ", block=32", ", levels='fit'", ", levels='unbiased'", ", rounding='nearest'",
          ", block=4096, levels='unbiased', rounding='stochastic'", ", levels='fit', rounding='nearest'"}) {
      const std::string text = concat("Quantizer(bits=", bits, rest, ")");
      const CompressorPtr c = parse_compressor(text);
      EXPECT_EQ(c->spec(), text);
      EXPECT_TRUE(parse_compressor(c->spec())->format() == c->format());
      EXPECT_EQ(c->format().bits, bits);
    }
  }
  EXPECT_EQ(parse_compressor("Quantizer()")->spec(), "Quantizer(bits=4)");
  EXPECT_EQ(parse_compressor("Quantizer(3, 64, None, 'nearest',)")->spec(),
            "Quantizer(bits=3, block=64, rounding='nearest')");
}

TEST(CompressorRegistry, DecoderFollowsTheFormat) {
  for (const char* spec :
       {"Identity()", "Quantizer(bits=1, block=32, levels='fit')", "Quantizer(bits=7, levels='unbiased')"})
    EXPECT_EQ(decoder_for(parse_compressor(spec)->format())->spec(), spec);
}

TEST(CompressorRegistry, ErrorsNameArgumentAndColumn) {
  const auto error = [](const char* text) { return test::error_of<SpecError>([&] { parse_compressor(text); }); };
  const struct {
    const char* text;
    int column;
    const char* says;
  } cases[] = {
      {"Nope()", 1, "unknown compressor 'Nope'; known: Bernoulli, BlockDithering, Cast, Dithering, Identity"},
      {"4", 1, "unknown compressor"},
      {"Quantizer(bits=9)", 16, "bits: expected an integer from 1 to 8, got 9"},
      {"Quantizer(4.0)", 11, "bits: expected an integer from 1 to 8, got 4.0"},
      {"Quantizer(True)", 11, "got True"},
      {"Quantizer(4, 100)", 1, "block: expected a power of two from 32 to 4096, got 100"},
      {"Quantizer(4, 31)", 14, "block: expected an integer from 32 to 4096, got 31"},
      {"Quantizer(4, bits=4)", 19, "'bits' is given twice"},
      {"Quantizer(4, 256, None, None, None, 5)", 37, "at most 5 arguments"},
      {"Quantizer(foo=3)", 15, "no argument 'foo'"},
      {"Quantizer(levels='fitt')", 18, "levels: expected None or 'unbiased' or 'fit', got 'fitt'"},
      {"Quantizer(levels='fit', rounding='stochastic')", 1, "with levels='fit', got 'stochastic'"},
      {"Dithering()", 1, "levels: expected an integer from 1 to 32767, got none"},
      {"Dithering(32768)", 11, "levels: expected an integer from 1 to 32767, got 32768"},
      {"Dithering(4, 1)", 14, "norm: expected 2 or 'inf', got 1"},
      {"Dithering(4, block=100)", 1, "block: expected None or a power of two from 32 to 65536, got 100"},
      {"NaturalDithering(31)", 18, "levels: expected an integer from 1 to 30, got 31"},
      {"Cast('fp32')", 6, "dtype: expected None or 'fp16'"},
      {"Cast()", 1, "dtype: expected 'fp16'"},
      {"Identity(1)", 10, "at most 0 arguments"},
  };
  for (const auto& c : cases) {
    const std::string text = error(c.text);
    EXPECT_TRUE(test::contains(text, c.says) && test::contains(text, concat("(column ", c.column, ")")))
        << c.text << ": " << text;
  }
}

}  // namespace
}  // namespace tsq
