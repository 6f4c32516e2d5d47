#include "hook/transport.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "common/error.h"
#include "wire/message.h"

namespace tsq {

MutableBytes arena(std::vector<uint8_t>& memory, size_t bytes) {
  if (memory.size() < bytes) memory.resize(bytes);
  return {memory.data(), bytes};
}

std::vector<size_t> Transport::gather_lengths(std::span<const size_t> mine) {
  const std::vector<uint64_t> own(mine.begin(), mine.end());
  std::vector<uint64_t> all(own.size() * static_cast<size_t>(exchange_.size()));
  exchange_.all_gather({reinterpret_cast<const uint8_t*>(own.data()), 8 * own.size()},
                       {reinterpret_cast<uint8_t*>(all.data()), 8 * all.size()});
  for (const uint64_t length : all) agreed_bytes_ += length - std::min<uint64_t>(length, wire::kHeaderBytes);
  return {all.begin(), all.end()};
}

std::vector<Bytes> Transport::gather(Bytes mine, size_t length, std::span<const size_t> limits, bool fixed) {
  const size_t world = limits.size();
  std::vector<size_t> lengths(limits.begin(), limits.end());
  if (!fixed) {
    lengths = gather_lengths({&length, 1});
    for (size_t r = 0; r < world; ++r)
      if (lengths[r] > limits[r]) throw_wire("length", concat("at most ", limits[r]), lengths[r]);
  }
  const size_t padded = *std::max_element(lengths.begin(), lengths.end());
  if (padded == 0) return std::vector<Bytes>(world);
  const MutableBytes all = arena(receive_, world * padded);
  if (mine.size() < padded) {  // somebody's limit is larger than mine
    const MutableBytes wide = arena(pack_, padded);
    std::memcpy(wide.data(), mine.data(), length);
    mine = wide;
  }
  exchange_.all_gather(mine.first(padded), all);
  std::vector<Bytes> messages;
  for (size_t r = 0; r < world; ++r) messages.push_back(Bytes(all).subspan(r * padded, lengths[r]));
  return messages;
}

std::vector<Bytes> Transport::to_owners(Bytes mine, std::span<const size_t> lengths, std::span<const size_t> limits,
                                        bool fixed) {
  const size_t world = limits.size(), rank = static_cast<size_t>(exchange_.rank());
  std::vector<size_t> send_sizes(limits.begin(), limits.end()), from_rank(world, limits[rank]);
  Bytes packed = mine;
  if (!fixed) {  // every part is padded to the longest that any rank sends to that owner, and moved up to its
                 // predecessor
    const std::vector<size_t> all = gather_lengths(lengths);  // [sender][owner]
    if (std::all_of(all.begin(), all.end(), [](size_t n) { return n == 0; })) return std::vector<Bytes>(world);
    for (size_t owner = 0; owner < world; ++owner) {
      size_t longest = 1;  // no part is empty
      for (size_t r = 0; r < world; ++r) longest = std::max(longest, all[r * world + owner]);
      if (longest > limits[owner]) throw_wire("length", concat("at most ", limits[owner]), longest);
      send_sizes[owner] = longest;
    }
    const MutableBytes memory = arena(pack_, std::accumulate(send_sizes.begin(), send_sizes.end(), size_t{0}));
    for (size_t owner = 0, from = 0, to = 0; owner < world; ++owner) {
      std::memcpy(memory.data() + to, mine.data() + from, lengths[owner]);
      from += limits[owner];
      to += send_sizes[owner];
    }
    packed = memory;
    for (size_t r = 0; r < world; ++r) from_rank[r] = all[r * world + rank];
  }
  const MutableBytes received = arena(receive_, world * send_sizes[rank]);
  exchange_.all_to_all(packed, send_sizes, received, std::vector<size_t>(world, send_sizes[rank]));
  std::vector<Bytes> messages;
  for (size_t r = 0; r < world; ++r) messages.push_back(Bytes(received).subspan(r * send_sizes[rank], from_rank[r]));
  return messages;
}

}  // namespace tsq
