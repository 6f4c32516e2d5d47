#include "hook/agreement.h"

#include <gtest/gtest.h>

#include "hook/ranks.h"

namespace tsq {
namespace {

class AgreementTest : public testing::TestWithParam<int> {
 protected:
  /// The error of each rank when rank r holds facts(r).
  template <class F>
  std::vector<std::string> errors(F facts) {
    const auto group = std::make_shared<LoopbackGroup>(world);
    std::vector<std::string> out(static_cast<size_t>(world));
    test::on_ranks(group, [&](int rank) {
      LoopbackExchange exchange(group, rank);
      out[static_cast<size_t>(rank)] = test::error_of<ArgumentError>([&] { agree(exchange, "attach", facts(rank)); });
    });
    return out;
  }

  const int world = GetParam();
};
INSTANTIATE_TEST_SUITE_P(Worlds, AgreementTest, testing::Values(1, 2, 3, 4));

TEST_P(AgreementTest, EqualFactsPass) {
  const Facts many = {{"spec", "Quantizer(bits=4)"},
                      {"world", "4"},
                      {"empty", ""},
                      {"", "nameless"},
                      {"bytes", std::string("\0\xFF", 2)}};
  for (const Facts& facts : {many, Facts{}, Facts{{"long", std::string(100'000, 'x')}}})
    for (const std::string& error : errors([&](int) { return facts; })) EXPECT_EQ(error, "");
}

TEST_P(AgreementTest, DifferenceIsNamedWithRanksAndValuesOnEveryRank) {
  for (const std::string& error : errors([&](int rank) {
         return Facts{{"world", "4"},
                      {"spec", rank == world - 1 ? "Identity()" : "Quantizer(bits=4)"},
                      {"later", std::to_string(rank)}};
       })) {
    if (world == 1)
      EXPECT_EQ(error, "");
    else if (world == 2)
      EXPECT_EQ(error, "attach: the ranks differ: rank 0 has spec = Quantizer(bits=4); rank 1 has spec = Identity()");
    else  // the first rank that differs from rank 0
      EXPECT_EQ(error, "attach: the ranks differ: rank 0 has later = 0; rank 1 has later = 1");
  }
}

TEST_P(AgreementTest, MissingFactsAreNamed) {
  if (world == 1) return;
  for (const std::string& error : errors([&](int rank) {
         return rank == 1 ? Facts{{"p0", "float32 (3, 4)"}} : Facts{{"p0", "float32 (3, 4)"}, {"p1", "float32 (7,)"}};
       }))
    EXPECT_EQ(error, "attach: the ranks differ: rank 0 has p1 = float32 (7,); rank 1 has nothing more");
  for (const std::string& error : errors([&](int rank) { return rank == 0 ? Facts{} : Facts{{"a", "1"}}; }))
    EXPECT_EQ(error, "attach: the ranks differ: rank 0 has nothing more; rank 1 has a = 1");
}

TEST(Agreement, NamesAndValuesAreNotMixedUp) {
  const auto group = std::make_shared<LoopbackGroup>(2);
  test::on_ranks(group, [&](int rank) {
    LoopbackExchange exchange(group, rank);
    EXPECT_THROW(agree(exchange, "x", rank == 0 ? Facts{{"ab", "c"}} : Facts{{"a", "bc"}}), ArgumentError);
    EXPECT_THROW(agree(exchange, "x", rank == 0 ? Facts{{"a", "1"}, {"b", "2"}} : Facts{{"b", "2"}, {"a", "1"}}),
                 ArgumentError);
  });
}

TEST(Agreement, AlteredFactsRaise) {
  const auto group = std::make_shared<LoopbackGroup>(2);
  const auto errors = test::errors_on_ranks(group, [&](int rank) {
    if (rank == 1) {
      LoopbackExchange plain(group, rank);
      return agree(plain, "x", {{"name", "value"}});
    }
    test::MisbehavingExchange flips(group, rank, test::MisbehavingExchange::Kind::kFlip, 1,
                                    8 + 4 + 8 + 5 + 8 + 8 + 2);  // in a text of rank 1
    agree(flips, "x", {{"name", "value"}});
  });
  EXPECT_TRUE(errors[0].starts_with("bad message from rank 1: checksum: expected ")) << errors[0];
}

}  // namespace
}  // namespace tsq
