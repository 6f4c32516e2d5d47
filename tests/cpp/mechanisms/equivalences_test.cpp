// Mechanisms whose special cases are other mechanisms: the same payloads, byte for byte, and the same estimates.
#include <gtest/gtest.h>

#include "mechanisms/specs.h"

namespace tsq {
namespace {

using test::Endpoints;
using test::Octets;
using test::Vector;

constexpr uint64_t kSteps = 14;

struct Trace {
  std::vector<Octets> payloads;  ///< by step and rank
  std::vector<Vector> estimates;
};

Trace trace_of(const std::string& spec, DType dtype = DType::kFloat64, size_t n = 70, uint32_t world = 3) {
  Endpoints ends(spec, n, world, dtype);
  Trace trace;
  for (uint64_t step = 0; step < kSteps; ++step) {
    std::vector<Octets> messages;
    for (uint32_t r = 0; r < world; ++r) {
      messages.push_back(ends.send(r, test::drifting(dtype, n, r, step)));
      trace.payloads.push_back(test::payload_of(messages.back()));
    }
    trace.estimates.push_back(ends.receive(messages));
  }
  return trace;
}

TEST(Equivalences, ToTheByteInEveryType) {
  const struct {
    const char *special, *other;
  } cases[] = {
      {"AdaCGD([TopK(k=5)], zeta=1.5)", "CLAG(TopK(k=5), zeta=1.5)"},
      {"AdaCGD([Quantizer(bits=3)], zeta=1.5)", "CLAG(Quantizer(bits=3), zeta=1.5)"},
      {"AdaCGD([Identity()], zeta=1.5, init='zero')", "LAG(zeta=1.5, init='zero')"},
      {"CLAG(Identity(), zeta=1.5)", "LAG(zeta=1.5)"},
      {"CLAG(Identity(), zeta=0.1, init='zero')", "LAG(zeta=0.1, init='zero')"},
      {"AdaCGD([TopK(k=5), TopK(k=5), TopK(k=5)], zeta=1.5)", "CLAG(TopK(k=5), zeta=1.5)"},
      {"AdaCGD([Quantizer(bits=3), Quantizer(bits=3)], zeta=1.5)", "CLAG(Quantizer(bits=3), zeta=1.5)"},
      {"AdaCGD([Sign(), Natural(), Natural()], zeta=0)", "CLAG(Natural(), zeta=0)"},
      {"ThreePC(TopK(k=5), variant=3, second=EF21(TopK(k=2)))", "ThreePC(TopK(k=5), variant=4, second=TopK(k=2))"},
      {"ThreePC(Quantizer(bits=2), variant=3, second=EF21(Quantizer(bits=1), init='zero'), init='zero')",
       "ThreePC(Quantizer(bits=2), variant=4, second=Quantizer(bits=1), init='zero')"},
      {"Ada3PC([EF21(TopK(k=5)), LAG(zeta=1)], [Always()])", "EF21(TopK(k=5))"},
      {"Ada3PC([ThreePC(TopK(k=5), second=RandK(k=3)), EF21(Sign())], [Always()])",
       "ThreePC(TopK(k=5), second=RandK(k=3))"},
      {"Ada3PC([CLAG(Quantizer(bits=3), zeta=1.5, init='zero'), LAG(zeta=0, init='zero')], [Always()], init='zero')",
       "CLAG(Quantizer(bits=3), zeta=1.5, init='zero')"},
      {"Ada3PC([ThreePC(TopK(k=5), variant=5, p=0.3)], [])", "ThreePC(TopK(k=5), variant=5, p=0.3)"},
      {"Ada3PC([LAG(zeta=1.5), EF21(TopK(k=5))], [Near(zeta=1.5)])", "CLAG(TopK(k=5), zeta=1.5)"},
      {"Ada3PC([EF21(TopK(k=5)), LAG(zeta=1.5)], [Far(zeta=1.5)])", "CLAG(TopK(k=5), zeta=1.5)"},
      {"Ada3PC([LAG(zeta=0.5), EF21(TopK(k=1)), EF21(TopK(k=5)), EF21(TopK(k=20))],"
       " [Near(zeta=0.5), Accurate(zeta=0.5), Accurate(zeta=0.5)])",
       "AdaCGD([TopK(k=1), TopK(k=5), TopK(k=20)], zeta=0.5)"},
      {"Ada3PC([LAG(zeta=0.3, init='zero'), EF21(TopK(k=5), init='zero'), EF21(Identity(), init='zero')],"
       " [Near(zeta=0.3), Accurate(zeta=0.3)], init='zero')",
       "AdaCGD([TopK(k=5), Identity()], zeta=0.3, init='zero')"},
      {"Ada3PC([LAG(zeta=0.2), EF21(Quantizer(bits=2)), EF21(Quantizer(bits=4))], [Near(zeta=0.2), "
       "Accurate(zeta=0.2)])",
       "AdaCGD([Quantizer(bits=2), Quantizer(bits=4)], zeta=0.2)"},
      {"Ada3PC([Ada3PC([LAG(zeta=0.2), EF21(Sign())], [Near(zeta=0.2)]), EF21(Natural())], [Accurate(zeta=0.2)])",
       "AdaCGD([Sign(), Natural()], zeta=0.2)"},
      {"EF21(TopK(k=5), momentum=1)", "EF21(TopK(k=5))"},
      {"EF21(Quantizer(bits=3), momentum=1, init='zero')", "EF21(Quantizer(bits=3), init='zero')"},
      {"Bidirectional(EF21(TopK(k=5)), Direct(Identity()))", "EF21(TopK(k=5))"},
      {"Bidirectional(LAG(zeta=1), Direct(Identity()))", "LAG(zeta=1)"},
      {"Bidirectional(Direct(Quantizer(bits=3)), Direct(Identity()))", "Direct(Quantizer(bits=3))"},
      {"Bidirectional(ErrorFeedback(TopK(k=5)), ErrorFeedback(Identity()))", "ErrorFeedback(TopK(k=5))"},
  };
  for (const auto& c : cases) {
    for (const DType dtype : test::kAllDTypes) {
      const Trace a = trace_of(c.special, dtype), b = trace_of(c.other, dtype);
      for (size_t i = 0; i < a.payloads.size(); ++i)
        ASSERT_EQ(a.payloads[i], b.payloads[i]) << c.special << ' ' << name_of(dtype) << " message " << i;
      for (size_t i = 0; i < a.estimates.size(); ++i)
        ASSERT_EQ(a.estimates[i], b.estimates[i]) << c.special << ' ' << name_of(dtype) << " step " << i;
    }
  }
}

// With zeta = 0 nothing is skipped but what is exact already: a gradient that rests costs EF21 a message of zeros.
TEST(Equivalences, WithoutTolerance) {
  for (const char* spec : {"CLAG(TopK(k=5), zeta=0)", "AdaCGD([TopK(k=5)], zeta=0)",
                           "AdaCGD([TopK(k=1), TopK(k=3), TopK(k=5)], zeta=0)"}) {
    const Trace a = trace_of(spec), b = trace_of("EF21(TopK(k=5))");
    ASSERT_EQ(a.payloads, b.payloads) << spec;
    ASSERT_EQ(a.estimates, b.estimates) << spec;
  }
}

TEST(Equivalences, GradientDescentToRounding) {
  const struct {
    const char* spec;
    bool to_the_bit;  // the message carries x itself
  } cases[] = {{"Direct(Identity())", true},
               {"ErrorFeedback(Identity())", true},
               {"MARINA(Quantizer(bits=4), p=1)", true},
               {"MARINA(Natural(), p=1)", true},
               {"EF21(Identity())", false},
               {"EF21(Identity(), init='zero')", false},
               {"LAG(zeta=0)", false},
               {"DIANA(Identity(), alpha=1)", false},
               {"DIANA(Identity())", false},
               {"CLAG(TopK(ratio=1), zeta=0)", false},
               {"AdaCGD([TopK(k=1), Identity()], zeta=0)", false},
               {"ThreePC(TopK(k=5), variant=5, p=1)", false},
               {"ThreePC(Identity(), variant=1)", false},
               {"ThreePC(Identity(), variant=2, second=Quantizer(bits=2))", false},
               {"ThreePC(TopK(k=5), variant=4, second=Identity())", false}};
  const Trace plain = trace_of("Direct(Identity())");
  for (const auto& c : cases) {
    const Trace t = trace_of(c.spec);
    for (size_t step = 0; step < kSteps; ++step) {
      double size = 0;
      for (uint32_t r = 0; r < 3; ++r)
        size = std::max(size, test::max_abs(test::drifting(DType::kFloat64, 70, r, step).view()));
      const double off = test::max_difference(t.estimates[step].view(), plain.estimates[step].view());
      ASSERT_LE(off, c.to_the_bit ? 0.0 : 1e-14 * size) << c.spec << " step " << step;
    }
  }
}

// 3PCv2 with an exact Q forgets h: its error is that of c on y - h.
TEST(Equivalences, VariantTwoWithIdentityErrsByTheOldError) {
  constexpr size_t kNumel = 40;
  const CompressorPtr c = parse_mechanism("Direct(TopK(k=5))")->codecs(0)[0];
  Endpoints ends("ThreePC(TopK(k=5), variant=2, second=Identity())", kNumel, 1, DType::kFloat64);
  EXPECT_EQ(ends.config.mechanism->three_point(kNumel, 1)->B, 0.0);
  Vector before(DType::kFloat64, kNumel), y(DType::kFloat64, kNumel);
  for (uint64_t step = 0; step < kSteps; ++step) {
    const Vector x = test::drifting(DType::kFloat64, kNumel, 0, step);
    if (step == 1)  // the dense beginning has no error: give it one
      for (const View& h : {ends.senders[0].state(0), ends.receiver.state().views()[0]}) {
        for (size_t i = 0; i < kNumel; ++i) test::set(h, i, 0.1 * double(i + 1));
        before = Vector(ConstView(h));
      }
    const Vector out = ends.receive({ends.send(0, x)});
    if (step > 0) {
      Vector old(DType::kFloat64, kNumel);
      for (size_t i = 0; i < kNumel; ++i) old.set(i, y[i] - before[i]);
      Octets payload(c->max_bytes(kNumel, DType::kFloat64));
      payload.resize(c->encode(old.view(), {}, payload).bytes);
      c->decode_add(payload, DType::kFloat64, -1.0, old.view());
      for (size_t i = 0; i < kNumel; ++i) ASSERT_NEAR(x[i] - out[i], old[i], 1e-14) << step << ' ' << i;
    }
    before = out;
    y = x;
  }
}

// In gradient units, the step applied afterwards, error feedback is the classic one: p = e + gamma g, x = x - C(p).
TEST(Equivalences, ErrorFeedbackInGradientUnitsIsTheClassicOne) {
  constexpr size_t kNumel = 300;
  for (const char* spec : {"ErrorFeedback(TopK(k=20))", "ErrorFeedback(Quantizer(bits=3))", "ErrorFeedback(Sign())"}) {
    for (const double gamma : {0.37, 0.125}) {  // the second changes no digit: to the bit
      Endpoints ours(spec, kNumel, 2, DType::kFloat64), classic(spec, kNumel, 2, DType::kFloat64);
      std::vector<double> x(kNumel), y(kNumel);
      for (uint64_t step = 0; step < kSteps; ++step) {
        std::vector<Octets> sent, scaled;
        for (uint32_t r = 0; r < 2; ++r) {
          Vector g = test::drifting(DType::kFloat64, kNumel, r, step);
          sent.push_back(ours.send(r, g));
          for (size_t i = 0; i < kNumel; ++i) g.set(i, gamma * g[i]);
          scaled.push_back(classic.send(r, g));
        }
        const Vector a = ours.receive(sent), b = classic.receive(scaled);
        for (size_t i = 0; i < kNumel; ++i) {
          x[i] -= gamma * a[i], y[i] -= b[i];
          ASSERT_NEAR(x[i], y[i], gamma == 0.125 ? 0.0 : 1e-5) << spec << " step " << step;
        }
      }
    }
  }
}

// A block that is longer than the vector is a block of the vector. (Error feedback shrinks unbiased codes with omega >=
// 1 by the constant of a whole block: those differ.)
TEST(Equivalences, ALongBlockIsASingleOne) {
  const struct {
    const char *longer, *whole;
  } cases[] = {{"Quantizer(bits=1, block=4096)", "Quantizer(bits=1, block=256)"},
               {"Quantizer(bits=3, block=4096, levels='unbiased')", "Quantizer(bits=3, block=256, levels='unbiased')"},
               {"Quantizer(bits=4, block=1024, levels='fit')", "Quantizer(bits=4, block=256, levels='fit')"},
               {"Sign(block=1024)", "Sign(block=256)"},
               {"Ternary(block=4096)", "Ternary(block=256)"},
               {"Dithering(levels=5, block=1024)", "Dithering(levels=5)"},
               {"Dithering(levels=5, norm='inf', block=256)", "Dithering(levels=5, norm='inf')"},
               {"NaturalDithering(levels=5, block=256)", "NaturalDithering(levels=5)"}};
  for (const auto& c : cases)
    for (const char* around : {"Direct", "ErrorFeedback"})
      for (const size_t n : {1, 200, 256}) {
        const bool shrunk = test::contains(c.longer, "unbiased") || test::contains(c.longer, "Ternary");
        if (shrunk && std::string_view(around) == "ErrorFeedback") continue;
        const auto wrapped = [&](const char* spec) { return concat(around, "(", spec, ")"); };
        const Trace a = trace_of(wrapped(c.longer), DType::kFloat32, n),
                    b = trace_of(wrapped(c.whole), DType::kFloat32, n);
        ASSERT_EQ(a.estimates, b.estimates) << around << ' ' << c.longer << ' ' << n;
      }
}

// One rank: the receiver's estimate is the sender's shift, or what the codec makes of the gradient, to the bit.
TEST(Equivalences, AWorldOfOneIsALocalLoop) {
  for (const char* spec : {"EF21(TopK(k=5))", "EF21(Quantizer(bits=3))", "CLAG(TopK(k=5), zeta=1)",
                           "AdaCGD([TopK(k=1), TopK(k=5)])", "ThreePC(TopK(k=5), variant=4, second=Quantizer(bits=2))",
                           "ThreePC(TopK(k=5), variant=3, second=LAG(zeta=9))"}) {
    for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
      Endpoints ends(spec, 70, 1, dtype);
      for (uint64_t step = 0; step < kSteps; ++step) {
        const Vector out = ends.receive({ends.send(0, test::drifting(dtype, 70, 0, step))});
        const double off = test::max_difference(out.view(), ends.senders[0].state(0));
        ASSERT_LE(off, test::contains(spec, "LAG") ? 4 * test::epsilon(dtype) * test::max_abs(out.view()) : 0.0)
            << spec << " step " << step;
      }
    }
  }
}

}  // namespace
}  // namespace tsq
