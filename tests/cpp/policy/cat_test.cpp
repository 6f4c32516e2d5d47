// CAT inside the encoders: what is sent, what is reported, what stays.
#include "policy/cat.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "common/error.h"
#include "compressors/registry.h"
#include "gaussian.h"
#include "wire/indices.h"

namespace tsq {
namespace {

std::shared_ptr<CostModel> affine(double c0, double c1) { return std::make_shared<AffineCost>(c0, c1, Unit::kSeconds); }

EncodeKey key_with(const EntryChooser& chooser) {
  EncodeKey key = encode_key({.seed = 1}, 0, 1);
  key.chooser = &chooser;
  return key;
}

std::vector<double> decoded(const Compressor& c, Bytes bytes, size_t n) {
  c.validate(bytes, n, DType::kFloat64);
  std::vector<double> out(n);
  c.decode_add(bytes, DType::kFloat64, 1.0, {out.data(), DType::kFloat64, n});
  return out;
}

using test::gaussian;

double square(const std::vector<double>& v) { return std::inner_product(v.begin(), v.end(), v.begin(), 0.0); }

const std::vector<double> kG = {8, -4, 0, 2, 1, -1};  // squares 64, 16, 4, 1, 1: 64/6, 80/7, 84/8 for c0 = 5, c1 = 1

TEST(Cat, ChoosesWithinTheSpecsLimit) {
  const CatChooser chooser({.cost = affine(5, 1)});
  const ConstView x{kG.data(), DType::kFloat64, kG.size()};
  std::vector<uint8_t> out(4096);
  for (const auto& [spec, entries] : {std::pair("TopK(ratio=1.0)", 2u), std::pair("TopK(k=1)", 1u)}) {
    const CompressorPtr c = parse_compressor(spec);
    EXPECT_TRUE(c->takes_chooser());
    const auto sent = c->encode(x, key_with(chooser), out);
    const std::vector<double> got = decoded(*c, Bytes(out).first(sent.bytes), kG.size());
    ASSERT_TRUE(sent.choice);
    EXPECT_EQ(sent.choice->entries, entries);
    EXPECT_DOUBLE_EQ(sent.choice->factor, square(got) / square(kG));
    EXPECT_EQ(got[0], 8);
    EXPECT_EQ(got[1], entries == 2 ? -4 : 0);
    EXPECT_FALSE(c->encode(x, encode_key({.seed = 1}, 0, 1), out).choice);  // without a chooser: as ever
  }
  EXPECT_FALSE(parse_compressor("Quantizer(bits=4)")->takes_chooser());
}

TEST(Cat, SignsReportTheirFactor) {
  const CatChooser chooser({.cost = affine(5, 1)});
  const ConstView x{kG.data(), DType::kFloat64, kG.size()};
  std::vector<uint8_t> out(4096);
  const CompressorPtr c = parse_compressor("SparseSign(ratio=1.0)");
  const auto sent = c->encode(x, key_with(chooser), out);
  ASSERT_TRUE(sent.choice);
  // S^2 / (T (5 + T)): 64/6, 72/7, 65.3/8, 56.25/9, 51.2/10.
  EXPECT_EQ(sent.choice->entries, 1u);
  EXPECT_DOUBLE_EQ(sent.choice->factor, 64.0 / 86.0);
  EXPECT_FLOAT_EQ(static_cast<float>(decoded(*c, Bytes(out).first(sent.bytes), 6)[0]), std::sqrt(86.0f));
}

TEST(Cat, SparsifierKeepsWhatReachesTau) {
  const CatChooser chooser({.cost = affine(5, 1)});
  const ConstView x{kG.data(), DType::kFloat64, kG.size()};
  std::vector<uint8_t> out(4096);
  const CompressorPtr c = parse_compressor("StochasticSparsifier(budget=1.0)");
  const auto sent = c->encode(x, key_with(chooser), out);
  ASSERT_TRUE(sent.choice);
  const double tau = std::sqrt(80.0 / 7.0);  // 3.38: two are certain
  const double moment = 80 + tau * (2 + 1 + 1);
  EXPECT_NEAR(sent.choice->factor, 86 / moment, 1e-12);
  const std::vector<double> got = decoded(*c, Bytes(out).first(sent.bytes), 6);
  EXPECT_EQ(got[0], 8);
  EXPECT_EQ(got[1], -4);
  for (const size_t j : {3u, 4u, 5u}) EXPECT_TRUE(got[j] == 0 || std::abs(std::abs(got[j]) - tau) < 1e-6) << got[j];
}

TEST(Cat, StateMovesByWhatWasSent) {
  const CatChooser chooser({.cost = affine(5, 1)});
  std::vector<double> x = kG, e(6, 0.0), h(6, 0.0);
  std::vector<uint8_t> out(4096);
  for (const char* spec : {"TopK(ratio=1.0)", "SparseSign(ratio=1.0)", "StochasticSparsifier(budget=1.0)"}) {
    const CompressorPtr c = parse_compressor(spec)->as_contractive();
    e.assign(6, 0.5);
    auto sent =
        c->encode_residual({x.data(), DType::kFloat64, 6}, {e.data(), DType::kFloat64, 6}, key_with(chooser), out);
    std::vector<double> got = decoded(*c, Bytes(out).first(sent.bytes), 6);
    ASSERT_TRUE(sent.choice);
    for (size_t i = 0; i < 6; ++i) EXPECT_NEAR(got[i] + e[i], x[i] + 0.5, 1e-12) << spec;
    h.assign(6, 0.5);
    sent = c->encode_shifted({x.data(), DType::kFloat64, 6}, {h.data(), DType::kFloat64, 6}, key_with(chooser), out);
    got = decoded(*c, Bytes(out).first(sent.bytes), 6);
    for (size_t i = 0; i < 6; ++i) EXPECT_NEAR(got[i] + 0.5, h[i], 1e-12) << spec;
  }
}

TEST(Cat, ZeroEmptyAndNonFiniteVectors) {
  const CatChooser chooser({.cost = affine(5, 1)}), at_price({.cost = affine(5, 1), .price = 1e9});
  std::vector<uint8_t> out(4096);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const char* spec : {"TopK(ratio=1.0)", "SparseSign(ratio=1.0)", "StochasticSparsifier(budget=1.0)"})
    for (const CatChooser* chosen : {&chooser, &at_price})
      for (const std::vector<double>& x : {std::vector<double>{}, {0.0}, std::vector<double>(9, 0.0), {1, nan, 2}}) {
        const CompressorPtr c = parse_compressor(spec);
        const auto sent = c->encode({x.data(), DType::kFloat64, x.size()}, key_with(*chosen), out);
        EXPECT_EQ(sent.finite, x.size() != 3) << spec;
        EXPECT_EQ(sent.bytes, c->zero_bytes(x.size(), DType::kFloat64)) << spec << x.size();
        EXPECT_EQ(square(decoded(*c, Bytes(out).first(sent.bytes), x.size())), 0) << spec;
      }
}

TEST(Cat, ChoiceDoesNotDependOnTheScaleOrTheOrder) {
  const CatChooser chooser({.cost = affine(5, 1)});
  const EntryCode code{6, 64, 0};
  for (const double scale : {1e-300, 1e-30, 1.0, 1e30, 1e300}) {
    std::vector<double> g = kG;
    for (double& v : g) v *= scale;
    EXPECT_EQ(chooser.largest(std::span<const double>(g), code), 2u) << scale;
    std::reverse(g.begin(), g.end());
    EXPECT_EQ(chooser.largest(std::span<const double>(g), code), 2u) << scale;
  }
}

TEST(Cat, IndexBitsAreThoseOfTheIndexCodeAtTheChoice) {
  const std::vector<float> g = gaussian(20000, 1);
  const MeasuredCost::Config link{.prior = {1e-3, 8e-8}, .keep = 0.9};
  const auto cost = std::make_shared<MeasuredCost>(link);
  const CatChooser chooser({.cost = cost->fixed(cost)});
  const EntryCode code{g.size(), 32, 0};
  const auto entries = static_cast<double>(chooser.largest(std::span<const float>(g), code));
  EXPECT_GT(entries, 100);
  EXPECT_LT(entries, 20000);
  // The ratio with real lengths is within 2 % of the best there is.
  Profile<float> profile{std::span<const float>(g)};
  const std::span<const double> sorted = profile.sorted(0, profile.kBins);
  double sum = 0, best = 0, found = 0;
  for (size_t t = 1; t <= sorted.size(); ++t) {
    sum += sorted[t - 1] * sorted[t - 1];
    const double bytes = 56 + static_cast<double>(wire::max_index_bytes(g.size(), t)) + 4.0 * static_cast<double>(t);
    const double ratio = sum / (1e-3 + 8e-8 * bytes);
    best = std::max(best, ratio);
    if (static_cast<double>(t) == entries) found = ratio;
  }
  EXPECT_GT(found, 0.98 * best);
}

TEST(Cat, AShareOfAMessagePaysAShareOfItsFixedCost) {
  const std::vector<double> wide = [] {
    std::vector<double> v;
    for (const double x : gaussian(4000, 2)) v.push_back(x);
    return v;
  }();
  const std::span<const double> all(wide), part = all.first(1000);
  const auto whole = static_cast<double>(CatChooser({.cost = affine(400, 1)}).largest(all, {4000, 64, 0}));
  const auto quarter =
      static_cast<double>(CatChooser({.cost = affine(400, 1), .share = 0.25}).largest(part, {1000, 64, 0}));
  EXPECT_NEAR(quarter / (whole / 4), 1, 0.1);
}

TEST(Cat, MeasuredCostIsFixedForAStep) {
  const auto cost = std::make_shared<MeasuredCost>();
  const Cat cat({.cost = cost});
  const std::vector<float> g = gaussian(5000, 3);
  const CatChooser before = cat.chooser(1, 0);
  const EntryCode code{g.size(), 32, 0};
  const uint64_t entries = before.largest(std::span<const float>(g), code);
  for (int i = 0; i < 50; ++i) cost->observe(1000.0 * i, 1e-5 + 1e-6 * 1000.0 * i);  // a much slower link
  EXPECT_EQ(before.largest(std::span<const float>(g), code), entries);
  EXPECT_LT(cat.chooser(1, 0).largest(std::span<const float>(g), code), entries);
}

TEST(Cat, WeightsDecideTheOrder) {
  // Squares 64, 16, 0, 4, 1, 1 by weights 1/16, 1, 1, 1, 1, 1: 4, 16, 0, 4, 1, 1.
  const auto weights = std::make_shared<const std::vector<double>>(std::vector<double>{0.25, 1, 1, 1, 1, 1});
  const CatChooser chooser({.cost = affine(1, 1), .weights = weights});
  std::vector<uint8_t> out(4096);
  const ConstView x{kG.data(), DType::kFloat64, kG.size()};
  const CompressorPtr top = parse_compressor("TopK(ratio=1.0)");
  auto sent = top->encode(x, key_with(chooser), out);
  EXPECT_EQ(sent.choice->entries, 1u);
  EXPECT_DOUBLE_EQ(sent.choice->factor, 16.0 / 26.0);
  EXPECT_EQ(decoded(*top, Bytes(out).first(sent.bytes), 6), (std::vector<double>{0, -4, 0, 0, 0, 0}));
  std::vector<double> h(6, 0.0);
  sent = top->encode_shifted(x, {h.data(), DType::kFloat64, 6}, key_with(chooser), out);
  EXPECT_EQ(h, (std::vector<double>{0, -4, 0, 0, 0, 0}));
  // tau = sqrt(16 / 2): the first is sent with probability 2 / tau, as 8 tau / 2.
  const CompressorPtr random = parse_compressor("StochasticSparsifier(budget=1.0)");
  const double tau = std::sqrt(8.0);
  int seen = 0;
  for (uint64_t step = 0; step < 200; ++step) {
    EncodeKey key = encode_key({.seed = 1, .step = step}, 0, 1);
    key.chooser = &chooser;
    sent = random->encode(x, key, out);
    const std::vector<double> got = decoded(*random, Bytes(out).first(sent.bytes), 6);
    EXPECT_EQ(got[1], -4);
    if (got[0] == 0) continue;
    EXPECT_NEAR(got[0], 4 * tau, 1e-6);
    ++seen;
  }
  EXPECT_NEAR(seen, 200 * 2 / tau, 30);
}

TEST(Cat, PriceFollowsTheBudget) {
  const Cat cat({.cost = affine(0, 1), .budget = 100.0, .speed = 0.5});
  EXPECT_EQ(cat.next_price(0, 0, 7), 0);
  double price = cat.next_price(0, 250, 50);
  EXPECT_EQ(price, 0.5);
  EXPECT_GT(cat.next_price(price, 101, 50), price);
  EXPECT_LT(cat.next_price(price, 99, 50), price);
  EXPECT_EQ(cat.next_price(price, 100, 50), price);
  // Two vectors of different scale under one price come to the budget together.
  std::vector<std::vector<float>> all = {gaussian(5000, 4), gaussian(5000, 5)};
  for (float& v : all[1]) v *= 3;
  uint64_t spent[2] = {};
  for (int step = 0; step < 200; ++step) {
    const CatChooser chooser = cat.chooser(1, price);
    for (const int i : {0, 1}) spent[i] = chooser.largest(std::span<const float>(all[size_t(i)]), {5000, 32, 0});
    price = cat.next_price(price, static_cast<double>(spent[0] + spent[1]), 50);
  }
  EXPECT_NEAR(static_cast<double>(spent[0] + spent[1]), 100, 2);
  EXPECT_GT(spent[1], spent[0]);
  EXPECT_THROW(Cat({.cost = affine(0, 1), .budget = 0.0}), ArgumentError);
  EXPECT_THROW(Cat({.cost = nullptr}), ArgumentError);
  EXPECT_THROW(Cat({.cost = affine(0, 1), .budget = {}, .speed = 2}), ArgumentError);
}

TEST(Cat, ARunSendsWhatBeatsSendingEverything) {
  const std::vector<float> narrow = gaussian(3000, 4);
  std::vector<double> g(narrow.begin(), narrow.end());
  for (double& v : g) v = v * v * v;
  const std::span<const double> all(g);
  const EntryCode code{g.size(), 64, 0};
  const CatChooser step({.cost = affine(100, 1)}), run({.cost = affine(100, 1), .horizon = Horizon::kRun});
  const uint64_t entries = run.largest(all, code);
  EXPECT_GT(entries, step.largest(all, code));
  const double price = square(g) / (100 + 3000);  // squared gradient per unit of cost, of everything
  EXPECT_EQ(entries, std::count_if(g.begin(), g.end(), [&](double v) { return v * v > price; }));
  EXPECT_EQ(run.threshold(all, code), step.threshold(all, code));
  std::vector<double> y = g;
  std::sort(y.begin(), y.end(), [](double a, double b) { return std::abs(a) > std::abs(b); });
  double whole = 0, sum = 0, best = -HUGE_VAL;
  for (const double v : y) whole += std::abs(v);
  const double sign_price = whole * whole / 3000 / 3100;
  uint64_t signs = 0;
  for (size_t t = 1; t <= y.size(); ++t) {
    sum += std::abs(y[t - 1]);
    const auto count = static_cast<double>(t);
    if (const double v = sum * sum / count - sign_price * count; v > best) best = v, signs = t;
  }
  EXPECT_EQ(run.signs(all, code), signs);
  // All alike: nothing is better than everything, whatever the cost.
  const std::vector<double> flat(50, -0.7);
  for (const double c0 : {0.0, 5.0}) {
    const CatChooser chooser({.cost = affine(c0, 1), .horizon = Horizon::kRun});
    EXPECT_EQ(chooser.largest(std::span<const double>(flat), {50, 64, 0}), 50u);
    if (c0 > 0) {  // else all numbers are as good
      EXPECT_EQ(chooser.signs(std::span<const double>(flat), {50, 1, 32}), 50u);
    }
  }
  // Packets are filled.
  const auto packets =
      std::make_shared<PacketCost>(PacketCost::Config{.payload = 800, .packet = 900, .straddle = false});
  const CatChooser filled({.cost = packets, .horizon = Horizon::kRun}), first({.cost = packets});
  EXPECT_GE(filled.largest(all, code), first.largest(all, code));
  EXPECT_LT(filled.largest(all, code), 3000u);
  EXPECT_EQ(filled.largest(std::span<const double>(flat), {50, 64, 0}), 50u);  // one packet, worth just its price
}

}  // namespace
}  // namespace tsq
