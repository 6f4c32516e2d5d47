// The library's exceptions, and the one way to put a message together.
#pragma once

#include <cstddef>
#include <sstream>
#include <stdexcept>
#include <string>

namespace tsq {

/// Concatenates anything that can be streamed.
template <class... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

/// A bad argument: names the argument, what was expected, what came. Python: ValueError.
class ArgumentError : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

/// A spec that does not parse or names impossible values; shows the column. Python: tsq.SpecError, a ValueError.
class SpecError : public ArgumentError {
 public:
  using ArgumentError::ArgumentError;
};

/// Bytes that are not a legal message, or not the message that was due. Python: tsq.WireError, a ValueError.
class WireError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

constexpr const char* kBadMessage = "bad message";

/// Names the field of a message, what was expected and what was found.
template <class Expected, class Found>
[[noreturn]] void throw_wire(const char* field, const Expected& expected, const Found& found) {
  throw WireError(concat(kBadMessage, ": ", field, ": expected ", expected, ", found ", found));
}

/// Calls `check`; a WireError of it names the rank whose message it was.
template <class F>
decltype(auto) name_sender(int rank, F&& check) {
  try {
    return check();
  } catch (const WireError& e) {
    std::string text = e.what();
    if (text.starts_with(kBadMessage))
      text.insert(std::char_traits<char>::length(kBadMessage), concat(" from rank ", rank));
    throw WireError(text);
  }
}

}  // namespace tsq
