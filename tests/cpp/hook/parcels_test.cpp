// Parcels change when bytes travel and nothing else: the same averages and the same state, bit by bit, as one message.
#include "hook/parcel_stream.h"

#include "hook/ranks.h"

namespace tsq {
namespace {

using test::Buckets;
using test::ByRank;
using test::Cluster;
using test::MisbehavingExchange;
using test::ParameterSpec;
using test::Vector;

constexpr size_t kLarge = 5 * 65536 + 777;
constexpr ParcelRule kAlways{.least = 1, .first = 1}, kNever{.least = SIZE_MAX};
const Buckets kBucket = {{0, 1, 2, 3}};

/// A large parameter between others.
std::vector<ParameterSpec> model(const std::string& spec) {
  return {{300, "Identity()"}, {kLarge, spec}, {5000, spec}, {70000, spec}};
}

Cluster cluster_of(int world, DType dtype, const std::string& spec, const ParcelRule& rule,
                   const test::Wrap& wrap = test::plain_exchange) {
  return {world, dtype, model(spec), {.parcels = rule}, wrap};
}

std::vector<Parameter> parameters_of(const std::vector<ParameterSpec>& model) {
  std::vector<Parameter> out;
  for (const ParameterSpec& p : model)
    out.push_back({concat("p", out.size()), p.numel, DType::kFloat32, parse_mechanism(p.up), parse_mechanism(p.down)});
  return out;
}

const std::vector<std::string> kSpecs = {"ErrorFeedback(Quantizer(bits=4))",
                                         "ErrorFeedback(Quantizer(bits=1, block=4096))",
                                         "Direct(Quantizer(bits=4))",
                                         "ErrorFeedback(UniformStep(bits=1.0))",
                                         "ErrorFeedback(UniformStep(step=0.5))",
                                         "Direct(UniformStep(bits=2.0))",
                                         "ErrorFeedback(Sign())",
                                         "Direct(Ternary())",
                                         "Direct(Natural())",
                                         "ErrorFeedback(Cast(dtype='fp8'))"};

class Parcels : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(All, Parcels, testing::ValuesIn(kSpecs), [](const auto& info) {
  std::string name = info.param;
  std::erase_if(name, [](char c) { return !std::isalnum(static_cast<unsigned char>(c)); });
  return name;
});

TEST_P(Parcels, ChangeNoBit) {
  const std::pair<DType, int> cases[] = {{DType::kFloat32, 2}, {DType::kFloat64, 3}, {DType::kBFloat16, 2}};
  for (const auto& [dtype, world] : cases) {
    Cluster cut = cluster_of(world, dtype, GetParam(), kAlways), whole = cluster_of(world, dtype, GetParam(), kNever);
    for (uint64_t step = 0; step < 3; ++step) {
      ASSERT_EQ(cut.step(kBucket, step), whole.step(kBucket, step)) << name_of(dtype) << " step " << step;
      ASSERT_EQ(cut.snapshot(), whole.snapshot()) << name_of(dtype) << " step " << step;
      for (size_t rank = 0; rank < cut.averagers.size(); ++rank)
        for (uint32_t id = 0; id < 4; ++id) {  // pieces have a few bytes more, which the controller of the rate sees
          const auto& rates = cut.averagers[rank]->states().progress(id).rates[0];
          auto& others = whole.averagers[rank]->states().progress(id).rates[0];
          ASSERT_EQ(rates.size(), others.size());
          for (size_t part = 0; part < rates.size(); ++part) ASSERT_NEAR(rates[part], others[part], 0.01);
          others = rates;
        }
    }
    const auto calls = [](const Cluster& c) { return c.averagers[0]->stats().traffic.collectives; };
    EXPECT_GE(calls(cut), calls(whole) + 6) << "was not cut";
  }
}

TEST_P(Parcels, ANaNStaysInItsParameter) {
  Cluster cut = cluster_of(2, DType::kFloat32, GetParam(), kAlways),
          whole = cluster_of(2, DType::kFloat32, GetParam(), kNever);
  cut.step(kBucket, 0);
  whole.step(kBucket, 0);
  ByRank gradients = cut.gradients(1);
  gradients[1][1].set(3 * 65536 + 5, std::numeric_limits<double>::quiet_NaN());
  const ByRank out = cut.step(kBucket, gradients), expected = whole.step(kBucket, gradients);
  const bool feedback = cut.residual(0, 1).view().numel > 0;
  for (size_t rank = 0; rank < 2; ++rank) {
    for (const size_t id : {0, 2, 3}) EXPECT_EQ(out[rank][id], expected[rank][id]) << id;
    EXPECT_TRUE(std::isnan(out[rank][1][3 * 65536 + 5]));
    if (feedback) {
      EXPECT_TRUE(test::all_nan(out[rank][1].view()));
    }
  }
  EXPECT_EQ(cut.snapshot(), whole.snapshot());
  EXPECT_EQ(cut.step(kBucket, 2), whole.step(kBucket, 2));
}

TEST(ParcelStream, FailureAtAnyCollectiveLeavesNoTrace) {
  for (const std::string spec : {"ErrorFeedback(UniformStep(bits=1.0))", "ErrorFeedback(Quantizer(bits=2))"})
    for (const auto kind : {MisbehavingExchange::Kind::kThrow, MisbehavingExchange::Kind::kFlip}) {
      Cluster counted = cluster_of(2, DType::kFloat32, spec, kAlways);
      counted.step(kBucket, 0);
      const uint64_t per_step = counted.averagers[0]->stats().traffic.collectives;
      ASSERT_GE(per_step, 3u);
      for (uint64_t target = per_step; target < 2 * per_step; ++target) {
        Cluster cluster = cluster_of(2, DType::kFloat32, spec, kAlways,
                                     [&](test::GroupPtr group, int rank) -> std::unique_ptr<Exchange> {
                                       if (rank != 0) return test::plain_exchange(group, rank);
                                       return std::make_unique<MisbehavingExchange>(group, rank, kind, target, 13);
                                     });
        cluster.step(kBucket, 0);
        const ByRank before = cluster.snapshot(), gradients = cluster.gradients(1);
        ByRank values = gradients;
        const std::vector<std::string> errors = cluster.try_step(kBucket, values);
        if (kind == MisbehavingExchange::Kind::kThrow)
          EXPECT_EQ(errors[0], "planted failure") << target;
        else
          EXPECT_TRUE(errors[0].starts_with("bad message from rank 0: checksum: ")) << target << errors[0];
        EXPECT_EQ(values[0], gradients[0]) << target;
        EXPECT_FALSE(cluster.averagers[0]->torn());
        ByRank after = cluster.snapshot(), was = before;
        after.resize(1), was.resize(1);  // rank 1 may have finished its step
        EXPECT_LE(test::relative_difference(after, was, gradients), 8 * 0x1p-24) << "collective " << target;
      }
    }
}

/// Frames take `seconds` each, one after the other.
class TimedExchange final : public Exchange {
 public:
  TimedExchange(double seconds, double& clock) : seconds_(seconds), clock_(clock) {}
  int rank() const override { return 0; }
  int size() const override { return 1; }

 private:
  void do_all_gather(Bytes mine, MutableBytes all) override { std::ranges::copy(mine, all.begin()); }
  void do_all_to_all(Bytes, std::span<const size_t>, MutableBytes, std::span<const size_t>) override {}
  void do_all_reduce_mean(View) override {}
  void do_start_all_gather(Bytes mine) override {
    Exchange::do_start_all_gather(mine);
    arrivals_.push_back(last_ = std::max(last_, clock_) + seconds_);
  }
  void do_finish_all_gather(MutableBytes all) override {
    Exchange::do_finish_all_gather(all);
    clock_ = std::max(clock_, arrivals_.front());
    arrivals_.pop_front();
  }

  const double seconds_;
  double& clock_;
  double last_ = 0;
  std::deque<double> arrivals_;
};

TEST(ParcelStream, TellsWhatTheLinkTook) {
  constexpr size_t kParcels = 20;
  for (const double seconds : {0.01, 0.1, 1.0, 5.0}) {  // a parcel takes half a second to make, and as much to read
    double now = 100;
    TimedExchange exchange(seconds, now);
    Transport transport(exchange);
    const Clock clock = [&] { return now; };
    ParcelStream stream(exchange, transport, std::vector<size_t>(kParcels, 40), /*fixed=*/true, clock);
    std::vector<uint8_t> memory(kParcels * ParcelStream::room(40));
    size_t added = 0;
    for (size_t p = 0; p < kParcels; ++p) {
      for (; added < stream.ahead(p); ++added) {
        now += 0.5;
        stream.add(MutableBytes(memory).subspan(added * ParcelStream::room(40), ParcelStream::room(40)), 40);
      }
      EXPECT_EQ(stream.receive().size(), 1u);
      now += 0.5;
    }
    if (seconds > 1)
      EXPECT_NEAR(stream.travelled(), kParcels * seconds, 0.1 * kParcels * seconds);
    else
      EXPECT_LE(stream.travelled(), kParcels * seconds);  // never dearer than it is
    EXPECT_LE(stream.waited(), stream.travelled());
  }
}

TEST(ParcelStream, AParameterThatTookNoPartIsHeld) {
  const std::string spec = "ErrorFeedback(UniformStep(bits=1.0))";
  Cluster cut(2, DType::kFloat32, model(spec), {.hold_unused = true, .parcels = kAlways}),
      whole(2, DType::kFloat32, model(spec), {.hold_unused = true, .parcels = kNever});
  for (uint64_t step = 0; step < 3; ++step) {
    ByRank gradients = cut.gradients(step);
    if (step > 0)
      for (ByRank::value_type& of_rank : gradients)
        for (const size_t id : {1, 2, 3}) of_rank[id] = Vector(DType::kFloat32, of_rank[id].view().numel);
    ASSERT_EQ(cut.step(kBucket, gradients), whole.step(kBucket, gradients)) << step;
    ASSERT_EQ(cut.snapshot(), whole.snapshot()) << step;
  }
}

TEST(ParcelStream, AllOfTheBucketInOrder) {
  const auto parameters = parameters_of({{70, "Identity()"},
                                         {3 << 20, "ErrorFeedback(Quantizer(bits=4))"},
                                         {0, "Identity()"},
                                         {65536 + 9, "ErrorFeedback(UniformStep(bits=0.2))"},
                                         {2 << 20, "ErrorFeedback(UniformStep(bits=0.2))"}});
  const uint32_t ids[] = {4, 3, 2, 1, 0};
  const Layout layout = make_layout(parameters, ids, 2);
  size_t at = 0;
  std::map<uint32_t, size_t> ends;
  ASSERT_GT(layout.parcels.size(), 8u);
  for (size_t p = 0; p < layout.parcels.size(); ++p) {
    size_t numel = 0, sections = 0;
    for (const Piece& piece : layout.parcels[p].pieces) {
      EXPECT_EQ(piece.at, at);
      EXPECT_EQ(piece.begin, ends[piece.parameter]);
      EXPECT_EQ(piece.up_section, sections++);
      EXPECT_EQ(piece.begin % 65536, 0u);
      EXPECT_GT(piece.numel, 0u);
      at += piece.numel, numel += piece.numel, ends[piece.parameter] += piece.numel;
    }
    EXPECT_EQ(layout.parcels[p].numel, numel);
    EXPECT_EQ(layout.parcels[p].up_sections, sections);
    EXPECT_LE(numel, (size_t{1} << 20) + 2 * 65536);
  }
  EXPECT_EQ(at, layout.numel);
  EXPECT_LE(layout.parcels[0].numel, size_t{1} << 20);
  EXPECT_LE(layout.parcels.back().numel, size_t{1} << 19);  // 4 bits: 256 KB
}

TEST(ParcelStream, OnlyWhatCanBeCut) {
  const auto parcels = [](const std::string& spec, size_t numel, const ParcelRule& rule = {}) {
    const uint32_t ids[] = {0};
    return make_layout(parameters_of({{numel, spec}}), ids, 2, rule).parcels.size();
  };
  EXPECT_GT(parcels("ErrorFeedback(Quantizer(bits=4))", 4 << 20), 4u);
  for (const char* spec :
       {"ErrorFeedback(TopK(ratio=0.1))", "EF21(Quantizer(bits=4))", "CLAG(Quantizer(bits=4), zeta=1.0)",
        "Direct(Dithering(levels=4))", "ErrorFeedback(Quantizer(bits=2.5))", "DIANA(Quantizer(bits=4))"})
    EXPECT_EQ(parcels(spec, 4 << 20), 0u) << spec;
  EXPECT_EQ(parcels("ErrorFeedback(Quantizer(bits=4))", (1 << 20) - 1), 0u);
  EXPECT_EQ(parcels("ErrorFeedback(Quantizer(bits=4))", 4 << 20, {.most_bytes = (16 << 20) - 1}), 0u);
}

}  // namespace
}  // namespace tsq
