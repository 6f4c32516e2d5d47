// The grammar of specs: one expression, as Python would write it.
//
//   value      := call | number | string | None | True | False | list
//   call       := NAME "(" [ argument { "," argument } ] ")"        positional arguments first
//   argument   := [ NAME "=" ] value
//   list       := "[" [ value { "," value } ] "]"
//
// Only the shape is known here; what a name means is known to compressors/registry.h and mechanisms/registry.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tsq {

struct Argument;

/// A parsed value; `column` counts from 1.
struct Value {
  enum class Kind { kNone, kBool, kInt, kFloat, kString, kList, kCall };

  Kind kind = Kind::kNone;
  size_t column = 1;
  bool boolean = false;
  int64_t integer = 0;
  double number = 0;                ///< also set for kInt
  std::string text;                 ///< the string, or the name of the call
  std::vector<Value> items;         ///< of a list
  std::vector<Argument> arguments;  ///< of a call
};

struct Argument {
  std::string name;  ///< empty if positional
  Value value;
};

/// Parses all of `text`. Throws SpecError with the column and a marked copy of the text. Nesting is limited to 32
/// levels.
Value parse_expression(std::string_view text);

/// Throws SpecError: `message`, then `text` with a caret under `column`.
[[noreturn]] void throw_spec(std::string_view text, size_t column, const std::string& message);

/// The value as text: what parse_expression reads back.
std::string to_string(const Value& value);

/// A number as text, with the fewest digits that read back.
std::string number_text(double number);

/// Matches the arguments of one call with its parameters. Each getter names its parameter and takes it; `finish`
/// rejects what is left.
class Arguments {
 public:
  /// `text`: the whole spec, for error messages; must outlive this. `order`: parameter names, in positional order.
  Arguments(std::string_view text, const Value& call, std::vector<std::string> order);

  int64_t integer(const char* name, int64_t fallback, int64_t low, int64_t high);
  /// An integer, which goes to `whole` (as `fallback` does where it is not given), or, the result, a float; in [low,
  /// high].
  std::optional<double> float_or_integer(const char* name, int fallback, int low, int high, int* whole);
  std::optional<int64_t> optional_integer(const char* name, int64_t low, int64_t high);  ///< none: None or not given
  std::optional<double> positive(const char* name, double high);                         ///< in (0, high]; likewise
  std::optional<double> fraction(const char* name) { return positive(name, 1); }         ///< in (0, 1]; likewise
  std::optional<std::string> choice(const char* name,
                                    const std::vector<std::string>& choices);  ///< None or one of them
  std::optional<double> number(const char* name, double low, double high);  ///< in [low, high]; None or not given: none
  const Value& call(const char* name);                                      ///< required
  const Value* optional_call(const char* name);                             ///< null: None or not given
  const std::vector<Value>& list(const char* name);                         ///< required
  std::optional<bool> boolean(const char* name);                            ///< none: not given
  const Value* any(const char* name);                                       ///< null: None or not given
  void finish() const;

  [[noreturn]] void fail(const Value& at, const char* name, const std::string& expected) const;

 private:
  const Value* take(const char* name);
  int64_t integer_of(const Value& value, const char* name, int64_t low, int64_t high) const;

  std::string_view text_;
  const Value& call_;
  std::vector<std::string> order_;
  std::vector<const Value*> values_;  ///< by position in order_; null: not given
};

}  // namespace tsq
