// The grammar of specs: what it reads, where it says an error is, and that no text makes it fall over.
#include "common/expression.h"

#include <gtest/gtest.h>

#include "vectors.h"

namespace tsq {
namespace {

using Kind = Value::Kind;

bool same(const Value& a, const Value& b) {
  if (a.kind != b.kind || a.boolean != b.boolean || a.text != b.text || a.items.size() != b.items.size() ||
      a.arguments.size() != b.arguments.size())
    return false;
  if (a.kind == Kind::kInt && a.integer != b.integer) return false;
  if ((a.kind == Kind::kInt || a.kind == Kind::kFloat) && a.number != b.number) return false;
  for (size_t i = 0; i < a.items.size(); ++i)
    if (!same(a.items[i], b.items[i])) return false;
  for (size_t i = 0; i < a.arguments.size(); ++i)
    if (a.arguments[i].name != b.arguments[i].name || !same(a.arguments[i].value, b.arguments[i].value)) return false;
  return true;
}

TEST(Expression, ReadsCallsWithBothKindsOfArguments) {
  const Value v = parse_expression("  Outer( Inner(4) ,\n b = 'x', c=[1, True, None])\t");
  ASSERT_EQ(v.kind, Kind::kCall);
  EXPECT_EQ(v.text, "Outer");
  EXPECT_EQ(v.column, 3u);
  ASSERT_EQ(v.arguments.size(), 3u);
  EXPECT_EQ(v.arguments[0].name, "");
  EXPECT_EQ(v.arguments[0].value.text, "Inner");
  EXPECT_EQ(v.arguments[0].value.column, 10u);
  EXPECT_EQ(v.arguments[0].value.arguments[0].value.integer, 4);
  EXPECT_EQ(v.arguments[1].name, "b");
  EXPECT_EQ(v.arguments[1].value.text, "x");
  const Value& list = v.arguments[2].value;
  ASSERT_EQ(list.items.size(), 3u);
  EXPECT_TRUE(list.items[1].boolean);
  EXPECT_EQ(list.items[2].kind, Kind::kNone);
}

TEST(Expression, ReadsNumbers) {
  const auto integer = [](const char* text) {
    const Value v = parse_expression(text);
    EXPECT_EQ(v.kind, Kind::kInt) << text;
    EXPECT_EQ(v.number, static_cast<double>(v.integer));
    return v.integer;
  };
  EXPECT_EQ(integer("0"), 0);
  EXPECT_EQ(integer("+12"), 12);
  EXPECT_EQ(integer("-7"), -7);
  EXPECT_EQ(integer("9223372036854775807"), INT64_MAX);
  EXPECT_EQ(integer("-9223372036854775808"), INT64_MIN);
  const auto number = [](const char* text) {
    const Value v = parse_expression(text);
    EXPECT_EQ(v.kind, Kind::kFloat) << text;
    return v.number;
  };
  EXPECT_EQ(number("1.5"), 1.5);
  EXPECT_EQ(number(".25"), 0.25);
  EXPECT_EQ(number("-1e-3"), -1e-3);
  EXPECT_EQ(number("2E+5"), 2e5);
  EXPECT_EQ(number("9223372036854775808"), 0x1p63);
}

TEST(Expression, RejectsWhatIsNoNumber) {
  for (const char* text :
       {"1.2.3", "1e", "+", "-", ".", "0x10", "1_000", "1e999", "12abc", "-inf", "+inf", "-nan", "+nan(1)"})
    EXPECT_NE(test::error_of<SpecError>([&] { parse_expression(text); }), "") << text;
}

TEST(Expression, ReadsStringsAndLists) {
  EXPECT_EQ(parse_expression("'it is \"x\"'").text, "it is \"x\"");
  EXPECT_EQ(parse_expression("\"it's\"").text, "it's");
  EXPECT_EQ(parse_expression("''").kind, Kind::kString);
  EXPECT_TRUE(parse_expression("[]").items.empty());
  EXPECT_TRUE(parse_expression("f()").arguments.empty());
  EXPECT_EQ(parse_expression("[[1], [], 'a']").items.size(), 3u);
}

TEST(Expression, AllowsTrailingCommas) {
  EXPECT_EQ(parse_expression("f(1, a=2,)").arguments.size(), 2u);
  EXPECT_EQ(parse_expression("[1, 2, ]").items.size(), 2u);
  EXPECT_THROW(parse_expression("f(,)"), SpecError);
  EXPECT_THROW(parse_expression("[,]"), SpecError);
  EXPECT_THROW(parse_expression("f(1,,)"), SpecError);
}

struct Malformed {
  const char* text;
  size_t column;
  const char* says;
};

class ExpressionErrors : public testing::TestWithParam<Malformed> {};

TEST_P(ExpressionErrors, ShowTheColumn) {
  const auto [text, column, says] = GetParam();
  const std::string error = test::error_of<SpecError>([&] { parse_expression(text); });
  EXPECT_TRUE(test::contains(error, says)) << error;
  EXPECT_TRUE(test::contains(error, concat("(column ", column, ")"))) << error;
  EXPECT_TRUE(error.ends_with(concat("\n  ", text, "\n  ", std::string(column - 1, ' '), "^"))) << error;
}

INSTANTIATE_TEST_SUITE_P(Malformed, ExpressionErrors,
                         testing::Values(Malformed{"", 1, "found the end"},                                      //
                                         Malformed{"   ", 4, "found the end"},                                   //
                                         Malformed{"Quantizer", 10, "expected '(' after the name 'Quantizer'"},  //
                                         Malformed{"Quantizer(", 11, "found the end"},                           //
                                         Malformed{"Quantizer(bits=)", 16, "found ')'"},                         //
                                         Malformed{"Quantizer(bits=4", 17, "expected ','"},                      //
                                         Malformed{"Quantizer(bits=4))", 18, "expected the end, found ')'"},     //
                                         Malformed{"Quantizer(bits=4, 8)", 19, "positional argument"},           //
                                         Malformed{"Quantizer(4 8)", 13, "expected ',', found '8'"},             //
                                         Malformed{"f('abc", 4, "not closed"},                                   //
                                         Malformed{"f(1.2.3)", 3, "'1.2.3' is not a number"},                    //
                                         Malformed{"f([1, 2)", 8, "expected ',', found ')'"},                    //
                                         Malformed{"f(a=b=1)", 6, "after the name 'b', found '='"},              //
                                         Malformed{"f(1,,2)", 5, "found ','"},                                   //
                                         Malformed{"4 f()", 3, "expected the end, found 'f'"},                   //
                                         Malformed{"f(#)", 3, "found '#'"},                                      //
                                         Malformed{"f(1)(2)", 5, "expected the end, found '('"}));

TEST(Expression, LimitsNesting) {
  const auto nested = [](size_t levels) { return std::string(levels, '[') + std::string(levels, ']'); };
  EXPECT_NO_THROW(parse_expression(nested(33)));  // 32 levels inside the outermost
  const std::string error = test::error_of<SpecError>([&] { parse_expression(nested(34)); });
  EXPECT_TRUE(test::contains(error, "nested deeper than 32 levels (column 34)")) << error;
  EXPECT_THROW(parse_expression(std::string(1'000'000, '[')), SpecError);
  std::string calls;
  for (int i = 0; i < 100'000; ++i) calls += "f(a=";
  EXPECT_THROW(parse_expression(calls), SpecError);
}

TEST(Expression, RoundTripsThroughText) {
  for (const char* text :
       {"f()", "f(1, a='b', c=[1, 2.5, None, True, False, g(x=-3)])", "\"it's\"", "'say \"x\"'", "1.0", "-0.0", "1e300",
        "0.1", "1.23456789012345678", "3e0", "9223372036854775808", "[]", "[[], ['']]"}) {
    const Value v = parse_expression(text);
    EXPECT_TRUE(same(v, parse_expression(to_string(v)))) << text << " -> " << to_string(v);
  }
}

TEST(Expression, SurvivesGarbage) {
  const std::vector<std::string> tokens = {"Quantizer", "Identity", "ErrorFeedback",
                                           "a",         "bits",     "None",
                                           "True",      "False",    "(",
                                           "(",         ")",        ")",
                                           ",",         ",",        "=",
                                           "[",         "]",        "'",
                                           "\"",        " ",        "\t",
                                           "4",         "-1",       "1.5",
                                           "e",         "+",        ".",
                                           "_",         "9",        "\n",
                                           "#",         "é",        "f(",
                                           "f(1)",      "[1]",      "1e9"};
  std::mt19937 random(1);
  size_t parsed = 0;
  for (int trial = 0; trial < 20'000; ++trial) {
    std::string text;
    for (size_t n = random() % 12; n > 0; --n) text += tokens[random() % tokens.size()];
    if (random() % 2) text = "f(" + text + ")";
    if (random() % 8 == 0 && !text.empty())
      text[random() % text.size()] = static_cast<char>(1 + random() % 255);  // NUL would end what()
    try {
      const Value v = parse_expression(text);
      ++parsed;
      ASSERT_TRUE(same(v, parse_expression(to_string(v)))) << text << " -> " << to_string(v);
    } catch (const SpecError& e) {
      ASSERT_TRUE(test::contains(e.what(), "(column ")) << text;
    }
  }
  EXPECT_GT(parsed, 500u);
}

}  // namespace
}  // namespace tsq
