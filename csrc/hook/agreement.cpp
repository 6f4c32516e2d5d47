#include "hook/agreement.h"

#include <algorithm>

#include "common/error.h"
#include "exchange/sealed.h"

namespace tsq {

namespace {

constexpr size_t kMaxFacts = size_t{1} << 28;  // a peer's length is not trusted

void append(std::string& out, const std::string& text) {
  uint8_t length[8];
  store<uint64_t>(length, text.size());
  out.append(reinterpret_cast<const char*>(length), sizeof length);
  out += text;
}

std::string take(Bytes& in) {
  const uint64_t length = in.size() < 8 ? 0 : load<uint64_t>(in.data());
  if (in.size() < 8 || length > in.size() - 8) throw_wire("facts", "a text with its length", "fewer bytes");
  std::string text(reinterpret_cast<const char*>(in.data() + 8), length);
  in = in.subspan(8 + length);
  return text;
}

Facts read(Bytes in) {
  Facts facts;
  while (!in.empty()) {
    std::string name = take(in);
    facts.emplace_back(std::move(name), take(in));
  }
  return facts;
}

std::string shown(const Facts& facts, size_t i) {
  return i < facts.size() ? concat(facts[i].first, " = ", facts[i].second) : "nothing more";
}

}  // namespace

void agree(Exchange& exchange, const std::string& what, const Facts& facts) {
  const size_t world = static_cast<size_t>(exchange.size());
  std::string mine;
  for (const auto& [name, value] : facts) {
    append(mine, name);
    append(mine, value);
  }
  uint8_t length[8];
  store<uint64_t>(length, mine.size());
  const std::vector<uint8_t> lengths = all_gather_sealed(exchange, length, Counted::kNo);
  size_t longest = 1;
  for (size_t r = 0; r < world; ++r) longest = std::max<size_t>(longest, load<uint64_t>(&lengths[8 * r]));
  if (longest > kMaxFacts) throw_wire("facts", concat("at most ", kMaxFacts, " bytes"), longest);
  std::vector<uint8_t> padded(longest);
  std::copy(mine.begin(), mine.end(), padded.begin());
  const std::vector<uint8_t> all = all_gather_sealed(exchange, padded, Counted::kNo);

  const auto facts_of = [&](size_t r) {
    return name_sender(static_cast<int>(r),
                       [&] { return read(Bytes(all).subspan(r * longest, load<uint64_t>(&lengths[8 * r]))); });
  };
  const Facts first = facts_of(0);
  for (size_t r = 1; r < world; ++r) {
    const Facts other = facts_of(r);
    for (size_t i = 0; i < std::max(first.size(), other.size()); ++i)
      if (i >= first.size() || i >= other.size() || first[i] != other[i])
        throw ArgumentError(
            concat(what, ": the ranks differ: rank 0 has ", shown(first, i), "; rank ", r, " has ", shown(other, i)));
  }
}

}  // namespace tsq
