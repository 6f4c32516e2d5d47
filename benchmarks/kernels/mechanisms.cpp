// Whole mechanisms on one thread: a sender and a receiver of one 25 MiB bucket, as ratios to memcpy of it, in turns as
// in bench_kernels; processor time, the median of the ratios and the best of the times per element. Each case first
// shows that the receiver's estimate is the sender's shift and that the level is the one it is about. Usage:
// bench_mechanisms [substring of a spec]
#include <cmath>
#include <cstdio>
#include <random>
#include <string>

#include "bench.h"
#include "mechanisms/endpoint.h"
#include "mechanisms/registry.h"

namespace tsq {
namespace {

using bench::kElements;

constexpr int kRepetitions = 11;

struct Case {
  const char* spec;
  int level;           ///< that every send is to have; -1: no levels
  bool reset = false;  ///< shift and estimate start every step from zero
};

class Bench {
 public:
  Bench() {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    std::vector<float> some(1 << 16);
    for (float& v : some) v = normal(random) * 1e-3f;
    for (size_t i = 0; i < kElements; ++i)
      for (size_t which = 0; which < 2; ++which)
        x_[which][i] = some[(i * (7 + 4 * which) + i / some.size() * 31) % some.size()];
  }

  void run(const Case& c) {
    const EndpointConfig config{parse_mechanism(c.spec), kElements, 1, DType::kFloat32, 1};
    Sender sender(config, 0);
    Receiver receiver(config);
    std::vector<uint8_t> message(sender.max_message_bytes());
    uint64_t step = 0;
    size_t bytes = 0;
    const auto send = [&] { bytes = sender.send({x_[step++ % 2].get(), DType::kFloat32, kElements}, message); };
    const auto receive = [&] {
      const Bytes in(message.data(), bytes);
      receiver.receive({&in, 1}, {out_.get(), DType::kFloat32, kElements});
    };
    std::vector<double> sends, receives;
    double best_send = 1, best_receive = 1;  // seconds
    for (int i = -3; i < kRepetitions; ++i) {
      if (i == -2) message.assign(sender.max_message_bytes(), 0);  // the first message is dense
      if (c.reset)
        for (const View& v : {sender.state(0), receiver.state().views()[0]})
          std::memset(v.data, 0, kElements * sizeof(float));
      const double sending = bench::cpu_seconds(send), receiving = bench::cpu_seconds(receive);
      if (i == -1) check(sender, c);
      if (i < 0) continue;
      const double copy = bench::cpu_seconds([&] { std::memcpy(copy_.get(), x_[0].get(), kElements * sizeof(float)); });
      best_send = std::min(best_send, sending);
      best_receive = std::min(best_receive, receiving);
      sends.push_back(sending / copy);
      receives.push_back(receiving / copy);
    }
    check(sender, c);
    const double up = bench::median(sends), down = bench::median(receives);
    std::printf("%-62s level %2d %10zu bytes  send %6.2f + receive %5.2f = %6.2f x memcpy, best %.3f + %.3f ns\n",
                c.spec, sender.level(), bytes, up, down, up + down, best_send * 1e9 / kElements,
                best_receive * 1e9 / kElements);
    std::fflush(stdout);
  }

 private:
  void check(Sender& sender, const Case& c) {
    double largest = 0, off = 0;
    const auto* shift = sender.state(0).as<float>();
    for (size_t i = 0; i < kElements; ++i) {
      largest = std::max(largest, double(std::abs(shift[i])));
      off = std::max(off, double(std::abs(shift[i] - out_[i])));
    }
    if (off <= 1e-5 * largest && sender.level() == c.level) return;
    std::fprintf(stderr, "%s: the estimate is off by %g, level %d\n", c.spec, off, sender.level());
    std::exit(1);
  }

  bench::Array<float> x_[2] = {bench::allocate<float>(kElements), bench::allocate<float>(kElements)},
                      out_ = bench::allocate<float>(kElements), copy_ = bench::allocate<float>(kElements);
};

}  // namespace
}  // namespace tsq

int main(int argc, char** argv) {
  constexpr const char* kLadder = "AdaCGD([TopK(ratio=0.001), TopK(ratio=0.01), TopK(ratio=0.1)]";
  const std::string lowest = std::string(kLadder) + ", zeta=0)", skips = std::string(kLadder) + ", zeta=1e30)",
                    first = std::string(kLadder) + ", zeta=0.495)";
  const tsq::Case cases[] = {
      {"EF21(Quantizer(bits=4))", -1},
      {"EF21(TopK(ratio=0.01))", -1},
      {"CLAG(Quantizer(bits=4), zeta=1e30)", 0},
      {"CLAG(Quantizer(bits=4), zeta=0)", 1},
      {"CLAG(TopK(ratio=0.01), zeta=0)", 1},
      {skips.c_str(), 0},
      {first.c_str(), 1, true},
      {lowest.c_str(), 3},
      {"AdaCGD([Quantizer(bits=1), Quantizer(bits=2), Quantizer(bits=4)], zeta=0)", 3},
  };
  tsq::Bench bench;
  for (const tsq::Case& c : cases)
    if (argc < 2 || std::string(c.spec).find(argv[1]) != std::string::npos) bench.run(c);
}
