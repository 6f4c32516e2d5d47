#include "common/expression.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "common/error.h"

namespace tsq {

namespace {

constexpr int kMaxDepth = 32;

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool continues_character(char c) { return (static_cast<uint8_t>(c) & 0xC0) == 0x80; }  // of UTF-8

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Value parse() {
    Value value = parse_value(0);
    skip_spaces();
    if (at_ < text_.size()) fail(concat("expected the end, found ", found()));
    return value;
  }

 private:
  [[noreturn]] void fail(const std::string& message) const { throw_spec(text_, at_ + 1, message); }

  void skip_spaces() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n')) ++at_;
  }

  char peek() {
    skip_spaces();
    return at_ < text_.size() ? text_[at_] : '\0';
  }

  bool take(char c) {
    if (peek() != c) return false;
    ++at_;
    return true;
  }

  /// A whole character of UTF-8: half of one is no text that Python could show.
  std::string found() {
    if (peek() == '\0') return "the end";
    size_t end = at_ + 1;
    while (end < text_.size() && continues_character(text_[end])) ++end;
    return concat("'", text_.substr(at_, end - at_), "'");
  }

  void expect(char c) {
    if (!take(c)) fail(concat("expected '", c, "', found ", found()));
  }

  std::string parse_name() {
    const size_t begin = at_;
    while (at_ < text_.size() && (is_letter(text_[at_]) || is_digit(text_[at_]))) ++at_;
    return std::string(text_.substr(begin, at_ - begin));
  }

  Value parse_value(int depth) {
    const char c = peek();
    if (depth > kMaxDepth) fail(concat("nested deeper than ", kMaxDepth, " levels"));
    Value value;
    value.column = at_ + 1;
    if (c == '[') return parse_list(std::move(value), depth);
    if (c == '\'' || c == '"') return parse_string(std::move(value));
    if (is_digit(c) || c == '-' || c == '+' || c == '.') return parse_number(std::move(value));
    if (!is_letter(c)) fail(concat("expected a name, a number, a string or a list, found ", found()));
    value.text = parse_name();
    if (peek() == '(') return parse_call(std::move(value), depth);
    if (value.text == "None") {
      value.kind = Value::Kind::kNone;
    } else if (value.text == "True" || value.text == "False") {
      value.kind = Value::Kind::kBool;
      value.boolean = value.text == "True";
    } else {
      fail(concat("expected '(' after the name '", value.text, "', found ", found()));
    }
    return value;
  }

  Value parse_call(Value value, int depth) {
    value.kind = Value::Kind::kCall;
    expect('(');
    while (!take(')')) {
      if (!value.arguments.empty()) {
        expect(',');
        if (take(')')) break;  // a trailing comma, as in Python
      }
      Argument argument = parse_argument(depth);
      const bool follows_keyword = !value.arguments.empty() && !value.arguments.back().name.empty();
      if (argument.name.empty() && follows_keyword)
        throw_spec(text_, argument.value.column, "a positional argument follows a keyword argument");
      value.arguments.push_back(std::move(argument));
    }
    return value;
  }

  Argument parse_argument(int depth) {
    Argument argument;
    if (is_letter(peek())) {
      const size_t begin = at_;
      std::string name = parse_name();
      if (peek() == '=') {
        ++at_;
        argument.name = std::move(name);
      } else {
        at_ = begin;
      }
    }
    argument.value = parse_value(depth + 1);
    return argument;
  }

  Value parse_list(Value value, int depth) {
    value.kind = Value::Kind::kList;
    expect('[');
    while (!take(']')) {
      if (!value.items.empty()) {
        expect(',');
        if (take(']')) break;
      }
      value.items.push_back(parse_value(depth + 1));
    }
    return value;
  }

  Value parse_string(Value value) {
    value.kind = Value::Kind::kString;
    const char quote = text_[at_++];
    const size_t end = text_.find(quote, at_);
    if (end == std::string_view::npos) fail("the string is not closed");
    value.text = std::string(text_.substr(at_, end - at_));
    at_ = end + 1;
    return value;
  }

  Value parse_number(Value value) {
    const size_t begin = text_[at_] == '+' ? at_ + 1 : at_;
    size_t end = begin;
    while (end < text_.size() && (is_digit(text_[end]) || is_letter(text_[end]) || text_[end] == '.' ||
                                  ((text_[end] == '-' || text_[end] == '+') &&
                                   (end == begin || text_[end - 1] == 'e' || text_[end - 1] == 'E'))))
      ++end;
    const char* first = text_.data() + begin;
    const char* last = text_.data() + end;
    if (const auto [p, error] = std::from_chars(first, last, value.integer); error == std::errc{} && p == last) {
      value.kind = Value::Kind::kInt;
      value.number = static_cast<double>(value.integer);
    } else if (const auto [q, e] = std::from_chars(first, last, value.number);
               e == std::errc{} && q == last && std::isfinite(value.number)) {
      value.kind = Value::Kind::kFloat;
    } else {
      fail(concat("'", text_.substr(at_, end - at_), "' is not a number"));
    }
    at_ = end;
    return value;
  }

  std::string_view text_;
  size_t at_ = 0;
};

}  // namespace

Value parse_expression(std::string_view text) { return Parser(text).parse(); }

void throw_spec(std::string_view text, size_t column, const std::string& message) {
  column -= static_cast<size_t>(std::ranges::count_if(text.substr(0, column - 1), continues_character));
  throw SpecError(concat(message, " (column ", column, ")\n  ", text, "\n  ", std::string(column - 1, ' '), "^"));
}

namespace {

/// The fewest digits that read back as this number, and as a float.
std::string shortest(double number) {
  char digits[32];
  const auto end = std::to_chars(digits, digits + sizeof digits, number).ptr;
  std::string out(digits, end);
  return out.find_first_of(".e") == std::string::npos ? out + ".0" : out;
}

}  // namespace

std::string number_text(double number) { return shortest(number); }

std::string to_string(const Value& value) {
  switch (value.kind) {
    case Value::Kind::kNone:
      return "None";
    case Value::Kind::kBool:
      return value.boolean ? "True" : "False";
    case Value::Kind::kInt:
      return std::to_string(value.integer);
    case Value::Kind::kFloat:
      return shortest(value.number);
    case Value::Kind::kString: {
      const char* quote = value.text.find('\'') == std::string::npos ? "'" : "\"";  // no string has both
      return concat(quote, value.text, quote);
    }
    case Value::Kind::kList: {
      std::string out = "[";
      for (const Value& item : value.items) out += (out.size() > 1 ? ", " : "") + to_string(item);
      return out + "]";
    }
    case Value::Kind::kCall: {
      std::string out;
      for (const Argument& a : value.arguments)
        out += (out.empty() ? "" : ", ") + (a.name.empty() ? "" : a.name + "=") + to_string(a.value);
      return value.text + "(" + out + ")";
    }
  }
  return "";
}

Arguments::Arguments(std::string_view text, const Value& call, std::vector<std::string> order)
    : text_(text), call_(call), order_(std::move(order)), values_(order_.size(), nullptr) {
  size_t position = 0;
  for (const Argument& argument : call.arguments) {
    size_t index = position++;
    if (!argument.name.empty()) {
      index = static_cast<size_t>(std::find(order_.begin(), order_.end(), argument.name) - order_.begin());
      if (index == order_.size())
        throw_spec(text_, argument.value.column, concat(call.text, " has no argument '", argument.name, "'"));
    } else if (index >= order_.size()) {
      throw_spec(text_, argument.value.column, concat(call.text, " takes at most ", order_.size(), " arguments"));
    }
    if (values_[index])
      throw_spec(text_, argument.value.column, concat(call.text, ": argument '", order_[index], "' is given twice"));
    values_[index] = &argument.value;
  }
}

const Value* Arguments::take(const char* name) {
  const auto found = std::find(order_.begin(), order_.end(), name);
  const size_t index = static_cast<size_t>(found - order_.begin());
  const Value* value = index < values_.size() ? values_[index] : nullptr;
  if (value) values_[index] = nullptr;
  return value;
}

void Arguments::fail(const Value& at, const char* name, const std::string& expected) const {
  throw_spec(text_, at.column, concat(call_.text, ": ", name, ": expected ", expected, ", got ", to_string(at)));
}

int64_t Arguments::integer(const char* name, int64_t fallback, int64_t low, int64_t high) {
  const Value* value = take(name);
  if (!value) return fallback;
  return integer_of(*value, name, low, high);
}

std::optional<double> Arguments::float_or_integer(const char* name, int fallback, int low, int high, int* whole) {
  const Value* value = take(name);
  *whole = fallback;
  if (!value) return std::nullopt;
  const bool numeric = value->kind == Value::Kind::kInt || value->kind == Value::Kind::kFloat;
  if (!numeric || !(value->number >= low && value->number <= high))
    fail(*value, name, concat("an integer from ", low, " to ", high, ", or a float (an average)"));
  if (value->kind == Value::Kind::kFloat) return value->number;
  *whole = static_cast<int>(value->integer);
  return std::nullopt;
}

std::optional<int64_t> Arguments::optional_integer(const char* name, int64_t low, int64_t high) {
  const Value* value = take(name);
  if (!value || value->kind == Value::Kind::kNone) return std::nullopt;
  return integer_of(*value, name, low, high);
}

std::optional<double> Arguments::positive(const char* name, double high) {
  const Value* value = take(name);
  if (!value || value->kind == Value::Kind::kNone) return std::nullopt;
  const bool numeric = value->kind == Value::Kind::kInt || value->kind == Value::Kind::kFloat;
  if (!numeric || !(value->number > 0 && value->number <= high))
    fail(*value, name, concat("a number above 0, at most ", high));
  return value->number;
}

std::optional<double> Arguments::number(const char* name, double low, double high) {
  const Value* value = take(name);
  if (!value || value->kind == Value::Kind::kNone) return std::nullopt;
  const bool numeric = value->kind == Value::Kind::kInt || value->kind == Value::Kind::kFloat;
  if (!numeric || !(value->number >= low && value->number <= high))
    fail(*value, name, concat("a number from ", low, " to ", high));
  return value->number;
}

int64_t Arguments::integer_of(const Value& value, const char* name, int64_t low, int64_t high) const {
  if (value.kind != Value::Kind::kInt || value.integer < low || value.integer > high)
    fail(value, name, concat("an integer from ", low, " to ", high));
  return value.integer;
}

std::optional<std::string> Arguments::choice(const char* name, const std::vector<std::string>& choices) {
  const Value* value = take(name);
  if (!value || value->kind == Value::Kind::kNone) return std::nullopt;
  if (value->kind != Value::Kind::kString || std::find(choices.begin(), choices.end(), value->text) == choices.end()) {
    std::string expected = "None";
    for (const std::string& c : choices) expected += " or '" + c + "'";
    fail(*value, name, expected);
  }
  return value->text;
}

std::optional<bool> Arguments::boolean(const char* name) {
  const Value* value = take(name);
  if (!value) return std::nullopt;
  if (value->kind != Value::Kind::kBool) fail(*value, name, "True or False");
  return value->boolean;
}

const Value* Arguments::any(const char* name) {
  const Value* value = take(name);
  return value && value->kind != Value::Kind::kNone ? value : nullptr;
}

const Value& Arguments::call(const char* name) {
  const Value* value = take(name);
  if (!value) throw_spec(text_, call_.column, concat(call_.text, " needs an argument '", name, "'"));
  if (value->kind != Value::Kind::kCall) fail(*value, name, "an expression such as Quantizer(bits=4)");
  return *value;
}

const Value* Arguments::optional_call(const char* name) {
  const Value* value = take(name);
  if (!value || value->kind == Value::Kind::kNone) return nullptr;
  if (value->kind != Value::Kind::kCall) fail(*value, name, "an expression such as Quantizer(bits=4)");
  return value;
}

const std::vector<Value>& Arguments::list(const char* name) {
  const Value* value = take(name);
  if (!value) throw_spec(text_, call_.column, concat(call_.text, " needs an argument '", name, "'"));
  if (value->kind != Value::Kind::kList) fail(*value, name, "a list such as [TopK(ratio=0.01), TopK(ratio=0.1)]");
  return value->items;
}

void Arguments::finish() const {
  for (size_t i = 0; i < values_.size(); ++i)
    if (values_[i])
      throw_spec(text_, values_[i]->column, concat(call_.text, ": argument '", order_[i], "' was not read"));
}

}  // namespace tsq
