// Accidents drawn at random over mechanisms, exchanges and worlds. Whatever happens: no hang, and either every rank has
// the same averages and the same state, those of a run without the accident, or every rank has stopped with an error.
#include <cstdio>
#include <future>
#include <map>

#include "hook/agreement.h"
#include "hook/faulty.h"
#include "hook/pipeline.h"
#include "hook/ranks.h"

namespace tsq {
namespace {

using std::chrono::milliseconds;
using test::Fault;
using test::FaultyExchange;
using test::Vector;

constexpr const char* kSpecs[] = {
    "Identity()",
    "Quantizer(bits=4)",
    "RandK(ratio=0.1, shared=True)",
    "PermK()",
    "ErrorFeedback(Quantizer(bits=2))",
    "ErrorFeedback(UniformStep(bits=1.0))",
    "ErrorFeedback(TopK(ratio=0.1))",
    "EF21(TopK(ratio=0.05))",
    "EF21(Quantizer(bits=4), momentum=0.5)",
    "EF21(UniformStep(bits=2.0), init='zero')",
    "LAG(zeta=1.0)",
    "CLAG(TopK(k=20), zeta=2.0)",
    "AdaCGD([TopK(k=5), TopK(k=40)], zeta=4.0)",
    "DIANA(Quantizer(bits=4))",
    "MARINA(RandK(ratio=0.25), p=0.3)",
    "ThreePC(TopK(k=10), second=RandK(k=10))",
    "ThreePC(Quantizer(bits=4), variant=3, second=CLAG(TopK(k=5), zeta=1.0))",
    "Ada3PC([LAG(zeta=1.0), ThreePC(Sign(), variant=4, second=TopK(k=5)), EF21(TopK(k=30))],"
    " [Near(zeta=1.0), Accurate(zeta=2.0)])",
    "ThreePC(Quantizer(bits=2), variant=4, second=TopK(k=10))",
    "ThreePC(TopK(ratio=0.1), variant=5, p=0.3)"};
constexpr size_t kSizes[] = {1, 63, 256, 700, 1500};
constexpr int kSteps = 8, kFaultStep = 1;  // a fault's collective may be one of a later step, but not of the last
constexpr milliseconds kLimit{150}, kPatience{20000};

struct Scenario {
  Fault fault;
  ExchangeKind exchange;
  int world, rank;  ///< rank: who has the accident
  DType dtype;
  std::vector<test::ParameterSpec> model;
  test::Buckets buckets;
  uint64_t target;  ///< which collective
  bool lingers;     ///< a rank that failed does not close its connections: the others must time out
  uint64_t seed;

  std::string text() const {
    std::string out = concat(seed, ": ", test::name_of(fault), " of rank ", rank, "/", world, ", collective ", target,
                             ", ", tsq::name_of(exchange), ", ", tsq::name_of(dtype), lingers ? ", lingers" : "");
    for (const auto& p : model) out += concat("\n  ", p.numel, " ", p.up, " | ", p.down);
    return out;
  }
};

Scenario draw(uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto pick = [&](const auto& from) { return from[random() % std::size(from)]; };
  Scenario s;
  s.seed = seed;
  s.fault = test::kFaults[seed % std::size(test::kFaults)];
  s.exchange = random() % 2 ? ExchangeKind::kAllGather : ExchangeKind::kSharded;
  const bool of_bytes = s.fault >= Fault::kAlteredReceived && s.fault <= Fault::kMixedUp;
  if (!of_bytes && random() % 5 == 0) s.exchange = ExchangeKind::kDense;  // its bytes have no seal
  s.world = 2 + static_cast<int>(random() % 3);
  s.rank = static_cast<int>(random() % static_cast<uint64_t>(s.world));
  s.dtype = pick(test::kAllDTypes);
  const size_t count = 1 + random() % 4;
  for (size_t i = 0; i < count; ++i) s.model.push_back({pick(kSizes), pick(kSpecs), pick(kSpecs)});
  s.buckets.emplace_back();
  for (uint32_t id = 0; id < count; ++id) {
    if (id && random() % 3 == 0) s.buckets.emplace_back();
    s.buckets.back().push_back(id);
  }
  s.target = random() % 6;
  s.lingers = random() % 2;
  return s;
}

/// What one rank saw.
struct Seen {
  std::vector<std::vector<Vector>> delivered;  ///< [step][bucket], as far as it came
  std::string error, refused;                  ///< refused: what the bucket after the error was told
  bool happened = false;
  bool untouched = true;                    ///< after an error: the gradients were as before, and the state finite
  std::vector<std::vector<uint8_t>> state;  ///< at the end: what every rank must have alike
};

/// A rank as the hook runs it: an averager behind a pipeline.
class Rank {
 public:
  Rank(const Scenario& s, std::shared_ptr<LoopbackGroup> group, int rank) : s_(s), group_(group), rank_(rank) {
    auto exchange = std::make_unique<FaultyExchange>(group, rank, milliseconds(5), s.seed * 31 + 7);
    exchange_ = exchange.get();
    std::vector<Parameter> parameters;
    Facts facts;
    for (const test::ParameterSpec& p : s.model) {
      const bool other = s.fault == Fault::kConfig && rank == s.rank && s.target % 2 && parameters.empty();
      const std::string up = other ? "ErrorFeedback(Sign())" : p.up;
      parameters.push_back(
          {concat("p", parameters.size()), p.numel, s.dtype, parse_mechanism(up), parse_mechanism(p.down)});
      facts.emplace_back(parameters.back().name, up + p.down);
    }
    const bool other_seed = s.fault == Fault::kConfig && rank == s.rank && s.target % 2 == 0;
    facts.emplace_back("seed", concat(other_seed ? 1 : 0));
    agree(*exchange, "attach", facts);
    averager_ =
        std::make_unique<Averager>(std::move(parameters), AveragerConfig{.exchange = s.exchange}, std::move(exchange));
  }

  /// All steps, or as many as there are without an error.
  void train(bool healthy, Seen& seen) {
    for (int step = 0; step < kSteps; ++step) {
      seen.delivered.emplace_back();
      for (const std::vector<uint32_t>& ids : s_.buckets) {
        Vector bucket = gradient(ids, step);
        const bool first = ids == s_.buckets[0];
        if (!healthy && rank_ == s_.rank && step == kFaultStep && first) {
          if (s_.fault == Fault::kNaN)
            bucket.set(s_.seed % bucket.view().numel, s_.lingers ? NAN : INFINITY), seen.happened = true;
          else
            exchange_->arm(s_.fault, s_.target);
        }
        const Vector before = bucket;
        seen.error = average(ids, bucket);
        seen.happened = seen.happened || exchange_->happened();
        if (!seen.error.empty()) {
          seen.refused = average(ids, bucket);
          check_after_error(before, bucket, seen);
          if (!s_.lingers) group_->abort();
          return;
        }
        seen.delivered.back().push_back(bucket);
      }
    }
    pipeline_.run([&] { seen.state = common_state(); });
  }

 private:
  Vector gradient(const std::vector<uint32_t>& ids, int step) const {
    size_t numel = 0;
    for (const uint32_t id : ids) numel += s_.model[id].numel;
    return test::random_vector(s_.dtype, numel, s_.seed * 1000 + static_cast<uint64_t>(step * 8 + rank_) * 64 + ids[0]);
  }

  /// "" or the error that backward() would raise.
  std::string average(const std::vector<uint32_t>& ids, Vector& bucket) {
    std::promise<std::string> told;
    pipeline_.submit([&] { averager_->average(ids, bucket.view()); },
                     [&](const std::exception_ptr& error) {
                       try {
                         if (error) std::rethrow_exception(error);
                         told.set_value("");
                       } catch (const std::exception& e) {
                         told.set_value(e.what());
                       }
                     });
    return told.get_future().get();
  }

  void check_after_error(const Vector& before, const Vector& after, Seen& seen) {
    seen.untouched = s_.exchange == ExchangeKind::kDense || before == after;
    pipeline_.run([&] {
      for (const StateRef& ref : averager_->states().all())
        seen.untouched = seen.untouched && std::isfinite(test::max_abs(ref.view));
    });
  }

  /// Receivers' vectors that every rank has whole, and counters.
  std::vector<std::vector<uint8_t>> common_state() const {
    std::vector<std::vector<uint8_t>> out;
    const auto put = [&](const void* data, size_t bytes) {
      const auto* p = static_cast<const uint8_t*>(data);
      out.emplace_back(p, p + bytes);
    };
    const Side side = s_.exchange == ExchangeKind::kSharded ? Side::kDelivered : Side::kReceived;
    for (uint32_t id = 0; id < s_.model.size(); ++id) {
      for (const StateRef& ref : averager_->states().of_side(side, id))
        put(ref.view.data, ref.view.numel * size_of(ref.view.dtype));
      const uint64_t counters[] = {averager_->states().progress(id).steps, averager_->states().progress(id).fresh};
      put(counters, sizeof counters);
    }
    return out;
  }

  const Scenario& s_;
  std::shared_ptr<LoopbackGroup> group_;
  const int rank_;
  FaultyExchange* exchange_ = nullptr;
  std::unique_ptr<Averager> averager_;
  Pipeline pipeline_;
};

std::vector<Seen> run(const Scenario& s, bool healthy) {
  const bool patient = healthy || s.fault == Fault::kSleep || s.fault == Fault::kNaN || s.fault == Fault::kConfig;
  const auto group = std::make_shared<LoopbackGroup>(s.world, patient ? kPatience : kLimit);
  std::vector<Seen> seen(static_cast<size_t>(s.world));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < s.world; ++rank)
    threads.emplace_back([&, rank] {
      Seen& mine = seen[static_cast<size_t>(rank)];
      try {
        Rank(s, group, rank).train(healthy, mine);
      } catch (const ArgumentError& e) {  // attach
        mine.error = mine.refused = e.what();
        mine.happened = true;
      }
    });
  for (std::thread& thread : threads) thread.join();
  return seen;
}

/// Averages of one rank against those of another, as far as both came.
void expect_equal_averages(const Seen& a, const Seen& b, const char* what) {
  for (size_t step = 0; step < std::min(a.delivered.size(), b.delivered.size()); ++step)
    for (size_t i = 0; i < std::min(a.delivered[step].size(), b.delivered[step].size()); ++i)
      EXPECT_EQ(a.delivered[step][i], b.delivered[step][i]) << what << ", step " << step;
}

/// True if all came to the end.
bool check(const Scenario& s, const std::vector<Seen>& seen, const std::vector<Seen>& healthy) {
  const auto stopped = static_cast<size_t>(std::ranges::count_if(seen, [](const Seen& r) { return !r.error.empty(); }));
  EXPECT_TRUE(stopped == 0 || stopped == seen.size()) << "some ranks go on without the others";
  for (const Seen& r : seen) {
    expect_equal_averages(r, seen[0], "averages differ");
    if (s.fault != Fault::kNaN) expect_equal_averages(r, healthy[0], "wrong averages");
    if (stopped == 0) {
      EXPECT_EQ(r.state, seen[0].state) << "state differs";
      continue;
    }
    EXPECT_TRUE(r.untouched) << r.error;
    EXPECT_TRUE(s.fault == Fault::kConfig || test::contains(r.refused, "failed earlier")) << r.refused;
  }
  return stopped == 0;
}

/// What must come of it: damage may also have hit what nobody reads.
void check_expected(const Scenario& s, const std::vector<Seen>& seen, bool finished) {
  const bool happened = std::ranges::any_of(seen, &Seen::happened);
  switch (s.fault) {
    case Fault::kSleep:
    case Fault::kNaN:
      EXPECT_TRUE(finished) << seen[0].error;
      break;
    case Fault::kConfig:
      EXPECT_TRUE(test::contains(seen[0].error, "attach: the ranks differ")) << seen[0].error;
      break;
    case Fault::kKill:
    case Fault::kLongSleep:
      EXPECT_TRUE(!happened || !finished);
      break;
    default:
      break;
  }
}

/// Ends the process if the test does not end: a hang cannot be left behind in any other way.
class Watchdog {
 public:
  explicit Watchdog(std::chrono::seconds limit)
      : thread_([this, limit] {
          if (done_.get_future().wait_for(limit) == std::future_status::timeout) {
            std::fprintf(stderr, "hang in scenario %s\n", current.load()->c_str());
            std::abort();
          }
        }) {}
  ~Watchdog() {
    done_.set_value();
    thread_.join();
  }
  std::atomic<const std::string*> current{nullptr};

 private:
  std::promise<void> done_;
  std::thread thread_;
};

TEST(RandomFaults, EqualStateOrAnErrorOnEveryRank) {
  const auto number = [](const char* name, uint64_t otherwise) {
    const char* const given = std::getenv(name);
    return given ? std::stoull(given) : otherwise;
  };
  const uint64_t first = number("TSQ_FAULTS_FROM", 0), count = number("TSQ_FAULTS", 220);  // for longer runs by hand
  std::map<std::string, std::pair<int, int>> ends;  // by fault: finished, stopped
  for (uint64_t seed = first; seed < first + count; ++seed) {
    const Scenario s = draw(seed);
    const std::string text = s.text();
    SCOPED_TRACE(text);
    Watchdog watchdog(std::chrono::seconds(60));
    watchdog.current = &text;
    const std::vector<Seen> healthy = run(s, /*healthy=*/true), seen = run(s, /*healthy=*/false);
    ASSERT_TRUE(s.fault == Fault::kConfig || healthy[0].error.empty()) << healthy[0].error;
    const bool finished = check(s, seen, healthy);
    check_expected(s, seen, finished);
    auto& [equal, stopped] = ends[test::name_of(s.fault)];
    ++(finished ? equal : stopped);
    ASSERT_FALSE(testing::Test::HasFailure());
  }
  std::string summary;
  for (const auto& [fault, end] : ends)
    summary += concat(summary.empty() ? "" : "; ", fault, " ", end.first, " equal, ", end.second, " stopped");
  std::printf("%llu faults over loopback: %s\n", static_cast<unsigned long long>(count), summary.c_str());
}

}  // namespace
}  // namespace tsq
