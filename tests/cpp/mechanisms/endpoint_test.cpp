// Sender and Receiver: what is accepted, what is refused, and that everybody computes the same bits.
#include "mechanisms/endpoints.h"

#include <gtest/gtest.h>

namespace tsq {
namespace {

using test::Endpoints;
using test::Octets;
using test::Vector;

constexpr const char* kSpecs[] = {"Identity()", "ErrorFeedback(Identity())", "Quantizer(bits=4)",
                                  "ErrorFeedback(Quantizer(bits=2))",
                                  "ErrorFeedback(Quantizer(bits=3, levels='unbiased', block=1024))"};

std::vector<Octets> messages_of(Endpoints& ends, uint64_t step) {
  std::vector<Octets> out;
  for (size_t r = 0; r < ends.senders.size(); ++r)
    out.push_back(ends.send(r, test::gradient_of(ends.config.dtype, ends.config.numel, r, step)));
  return out;
}

TEST(Endpoint, AnyOrderOfMessagesGivesTheSameBits) {
  for (const char* spec : kSpecs) {
    for (const DType dtype : test::kAllDTypes) {
      for (const size_t n : test::kSizes) {
        Endpoints ends(spec, n, 4, dtype);
        std::vector<Octets> messages = messages_of(ends, 0);
        const Vector first = ends.receive(messages);
        std::mt19937 random(3);
        for (int trial = 0; trial < 5; ++trial) {
          std::ranges::shuffle(messages, random);
          ASSERT_EQ(ends.receive(messages), first) << spec << ' ' << n;
        }
      }
    }
  }
}

TEST(Endpoint, SameInputsGiveTheSameBytesAndOthersOtherDithers) {
  for (const char* spec : {"Quantizer(bits=2)", "ErrorFeedback(Quantizer(bits=4, levels='unbiased'))"}) {
    Endpoints a(spec, 1000, 2), b(spec, 1000, 2), other_seed(spec, 1000, 2, DType::kFloat32, 2);
    const Vector x = test::gradient_of(DType::kFloat32, 1000, 0, 0);
    const auto payload = [](const Octets& m) { return Octets(m.begin() + wire::overhead(1), m.end()); };
    const Octets first = a.send(0, x);
    EXPECT_EQ(first, b.send(0, x)) << spec;
    EXPECT_NE(payload(first), payload(a.send(1, x))) << "ranks share their dither";
    EXPECT_NE(payload(first), payload(other_seed.send(0, x)));
    Endpoints later(spec, 1000, 2);
    later.senders[0].set_step(1);
    EXPECT_NE(payload(first), payload(later.send(0, x))) << "steps share their dither";
    EXPECT_EQ(later.senders[0].step(), 2u);
  }
}

TEST(Endpoint, IdentityIsThePlainMeanInRankOrder) {
  for (const char* spec : {"Identity()", "ErrorFeedback(Identity())"}) {
    for (uint32_t world = 1; world <= 4; ++world) {
      Endpoints ends(spec, 300, world);
      for (uint64_t step = 0; step < 5; ++step) {
        const Vector mean = ends.receive(messages_of(ends, step));
        for (size_t i = 0; i < 300; ++i) {
          float sum = 0;
          for (uint32_t r = 0; r < world; ++r)
            sum += static_cast<float>(test::gradient_of(DType::kFloat32, 300, r, step)[i]);
          ASSERT_EQ(mean[i], world == 1 ? sum : sum / static_cast<float>(world));
        }
      }
    }
  }
}

TEST(Endpoint, ChecksItsArguments) {
  const EndpointConfig config{parse_mechanism("Identity()"), 10, 2, DType::kFloat32, 0};
  EXPECT_THROW(Sender(config, 2), ArgumentError);
  EndpointConfig nobody = config;
  nobody.world_size = 0;
  EXPECT_THROW(Sender(nobody, 0), ArgumentError);
  EXPECT_THROW(Receiver{nobody}, ArgumentError);
  Endpoints ends("Identity()", 10, 2);
  EXPECT_THROW(ends.send(0, Vector(DType::kFloat32, 9)), ArgumentError);
  EXPECT_THROW(ends.send(0, Vector(DType::kFloat16, 10)), ArgumentError);
  EXPECT_EQ(ends.senders[0].step(), 0u);
}

class ReceiverRefuses : public testing::Test {
 protected:
  /// The error for these messages; `out` must not have been touched.
  std::string error(const std::vector<Octets>& messages) {
    Vector out = test::random_vector(DType::kFloat32, kNumel, 99);
    const Vector before(out);
    const std::vector<Bytes> in(messages.begin(), messages.end());
    std::string text;
    try {
      ends_.receiver.receive(in, out.view());
      ADD_FAILURE() << "accepted";
    } catch (const WireError& e) {
      text = e.what();
    } catch (const ArgumentError& e) {
      text = e.what();
    }
    EXPECT_EQ(out, before) << "out was written";
    return text;
  }

  static constexpr size_t kNumel = 700;
  Endpoints ends_{"ErrorFeedback(Quantizer(bits=2))", kNumel, 3};
  std::vector<Octets> good_ = messages_of(ends_, 0);
};

#define EXPECT_SAYS(text, part) EXPECT_PRED2(test::contains, std::string(text), part)
#define ASSERT_SAYS(text, part) ASSERT_PRED2(test::contains, std::string(text), part)

TEST_F(ReceiverRefuses, MissingAndDuplicateRanks) {
  EXPECT_SAYS(error({good_[0], good_[1]}), "expected 3, one from every rank, got 2");
  EXPECT_SAYS(error({}), "got 0");
  EXPECT_SAYS(error({good_[0], good_[1], good_[2], good_[2]}), "got 4");
  EXPECT_SAYS(error({good_[0], good_[1], good_[1]}), "rank: expected each of 0 to 2 once, found 1");
  Endpoints larger("ErrorFeedback(Quantizer(bits=2))", kNumel, 4);
  EXPECT_SAYS(error({good_[0], good_[1], messages_of(larger, 0)[3]}), "rank: expected each of 0 to 2 once, found 3");
}

TEST_F(ReceiverRefuses, OtherSteps) {
  const std::vector<Octets> next = messages_of(ends_, 1);
  EXPECT_SAYS(error({good_[0], good_[1], next[2]}), "step: expected 0, found 1");
  EXPECT_SAYS(error({next[0], good_[1], good_[2]}), "step: expected 1, found 0");
}

TEST_F(ReceiverRefuses, OtherSpecsTypesAndLengths) {
  const auto with = [&](const char* spec, size_t n, DType dtype) {
    Endpoints other(spec, n, 3, dtype);
    return error({good_[0], good_[1], messages_of(other, 0)[2]});
  };
  EXPECT_SAYS(with("ErrorFeedback(Quantizer(bits=3))", kNumel, DType::kFloat32),
              "section: expected one of Quantizer(bits=2");
  EXPECT_SAYS(with("ErrorFeedback(Quantizer(bits=2, block=32))", kNumel, DType::kFloat32), "section: expected");
  EXPECT_SAYS(with("Quantizer(bits=2)", kNumel, DType::kFloat32), "section: expected");  // Direct: unbiased levels
  EXPECT_SAYS(with("Identity()", kNumel, DType::kFloat32), "section: expected");
  EXPECT_SAYS(with("ErrorFeedback(Quantizer(bits=2))", kNumel - 1, DType::kFloat32), "numel: expected 700, found 699");
  EXPECT_SAYS(with("ErrorFeedback(Quantizer(bits=2))", kNumel, DType::kFloat64),
              "dtype: expected float32, found float64");
}

TEST_F(ReceiverRefuses, AveragesAndSeveralSections) {
  Octets average = good_[2];
  average[7] = 1;
  EXPECT_SAYS(error({good_[0], good_[1], average}), "kind: expected a worker's message, found an average");
  Octets none(wire::kHeaderBytes);
  wire::Writer(none, {.rank = 2}).finish();
  EXPECT_SAYS(error({good_[0], good_[1], none}), "sections: expected 1, found 0");
}

TEST_F(ReceiverRefuses, EveryTruncationAndIllegalPayloads) {
  for (size_t n = 0; n < good_[2].size(); ++n) {
    const Octets cut(good_[2].begin(), good_[2].begin() + static_cast<ptrdiff_t>(n));
    ASSERT_SAYS(error({good_[0], good_[1], cut}), "bad message: ");
  }
  Octets bad = good_[2];
  store<uint32_t>(&bad[wire::overhead(1)],
                  0x7F800000u);  // an infinite scale in the last message: nothing may be decoded
  EXPECT_SAYS(error({good_[0], good_[1], bad}), "payload of Quantizer");
}

TEST_F(ReceiverRefuses, AnOutOfAnotherShape) {
  const std::vector<Bytes> in(good_.begin(), good_.end());
  EXPECT_THROW(ends_.receiver.receive(in, Vector(DType::kFloat32, kNumel + 1).view()), ArgumentError);
  EXPECT_THROW(ends_.receiver.receive(in, Vector(DType::kFloat64, kNumel).view()), ArgumentError);
}

TEST(MechanismRegistry, SpecsReadBack) {
  for (const char* spec : {"Direct(Identity())", "Direct(Quantizer(bits=4))", "ErrorFeedback(Identity())",
                           "ErrorFeedback(Quantizer(bits=2, block=64, levels='fit'))"})
    EXPECT_EQ(parse_mechanism(spec)->spec(), spec);
  EXPECT_EQ(parse_mechanism(" Quantizer( 3 ) ")->spec(), "Direct(Quantizer(bits=3))");
  EXPECT_EQ(parse_mechanism("ErrorFeedback(compressor=Quantizer())")->spec(), "ErrorFeedback(Quantizer(bits=4))");
}

TEST(MechanismRegistry, ErrorsNameArgumentAndColumn) {
  const struct {
    const char* text;
    int column;
    const char* says;
  } cases[] = {
      {"Nope()", 1, "compressors: Bernoulli, "},
      {"None", 1, "unknown mechanism or compressor None"},
      {"ErrorFeedback()", 1, "needs an argument 'compressor'"},
      {"ErrorFeedback(4)", 15, "expected an expression such as Quantizer(bits=4), got 4"},
      {"ErrorFeedback(Direct(Identity()))", 15, "unknown compressor 'Direct'"},
      {"ErrorFeedback(Quantizer(bits=0))", 30, "from 1 to 8, or a float (an average), got 0"},
      {"ErrorFeedback(Quantizer(4, 100))", 15, "a power of two"},
      {"ErrorFeedback(Identity(), Identity())", 27, "at most 1 arguments"},
      {"Direct(Identity(), Identity())", 20, "smoothness: expected None or 'scalar'"},
      {"Direct(compresor=Identity())", 18, "no argument 'compresor'"},
      {"LAG(zeta=-0.5)", 10, "zeta: expected a number from 0 to"},
      {"LAG()", 1, "LAG needs an argument 'zeta'"},
      {"CLAG(TopK(k=3), zeta=-1)", 22, "zeta: expected a number from 0 to"},
      {"AdaCGD([TopK(k=3)], zeta=-1)", 26, "zeta: expected a number from 0 to"},
      {"AdaCGD([])", 1, "ladder: expected at least one compressor, got none"},
      {"AdaCGD([TopK(k=9), TopK(k=3)])", 1,
       "ladder: expected compressors from cheap to accurate, got TopK(k=9) (alpha 8.58307e-06) before TopK(k=3)"},
      {"AdaCGD([Identity(), TopK(ratio=0.5)], zeta=1)", 1,
       "got Identity() (alpha 1) before TopK(ratio=0.5) (alpha 0.5)"},
      {"DIANA(TopK(k=3))", 1, "DIANA: compressor: expected an unbiased one, got TopK(k=3)"},
      {"DIANA(Sign())", 1, "DIANA: compressor: expected an unbiased one, got Sign()"},
      {"DIANA(Quantizer(bits=4, levels='fit'))", 1, "expected an unbiased one, got Quantizer(bits=4, levels='fit')"},
      {"DIANA(Natural(), alpha=1.5)", 24, "alpha: expected"},
      {"MARINA(Cast('bf16'), p=0.5)", 1, "MARINA: compressor: expected an unbiased one, got Cast(dtype='bf16')"},
      {"MARINA(Natural(), p=0)", 21, "p: expected"},
      {"ThreePC(TopK(k=3), second=Sign())", 1, "second: expected an unbiased compressor, got Sign()"},
      {"EF21(TopK(k=3), momentum=1.5)", 26, "momentum: expected"},
  };
  for (const auto& c : cases) {
    const std::string text = test::error_of<SpecError>([&] { parse_mechanism(c.text); });
    EXPECT_TRUE(test::contains(text, c.says) && test::contains(text, concat("(column ", c.column, ")")))
        << c.text << ": " << text;
  }
}

// Every part of a message is steered to the bits of its own compressor, and a level of a ladder to those of the level.
TEST(Rates, EachPartComesToItsOwnBits) {
  constexpr size_t kNumel = 20000;
  const struct {
    const char* spec;
    std::vector<double> bits;
  } cases[] = {{"ThreePC(UniformStep(bits=2.0), variant=4, second=UniformStep(bits=0.5))", {0.5, 2.0}},
               {"ThreePC(UniformStep(bits=0.5), variant=2, second=UniformStep(bits=3.0))", {3.0, 0.5}},
               {"ThreePC(UniformStep(bits=0.5), variant=3, second=EF21(UniformStep(bits=1.0)))", {1.0, 0.5}},
               {"AdaCGD([UniformStep(bits=0.5), UniformStep(bits=4.0)], zeta=1000.0)", {0.0}},
               {"AdaCGD([UniformStep(bits=0.5), UniformStep(bits=4.0)], zeta=0.4)", {0.5}},
               {"AdaCGD([UniformStep(bits=0.5), UniformStep(bits=4.0)], zeta=0.0)", {4.0}}};
  for (const auto& c : cases) {
    Endpoints ends(c.spec, kNumel, 1);
    std::vector<double> sent(c.bits.size());
    constexpr uint64_t kSteps = 40, kSettled = 20;
    for (uint64_t step = 0; step < kSteps; ++step) {
      const test::Octets octets = ends.send(0, test::gradient_of(DType::kFloat32, kNumel, 0, step));
      const wire::Message message = wire::parse(octets);
      for (size_t part = 0; step >= kSettled && part < sent.size(); ++part)
        sent[part] += 8.0 * double(message.sections[part].bytes) / double(kNumel * (kSteps - kSettled));
    }
    for (size_t part = 0; part < sent.size(); ++part)
      EXPECT_NEAR(sent[part], c.bits[part], 0.1 * c.bits[part]) << c.spec << " part " << part;
  }
}

}  // namespace
}  // namespace tsq
