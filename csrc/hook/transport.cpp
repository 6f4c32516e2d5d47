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

void check_length(size_t length, size_t limit, size_t sender) {
  if (length > limit)
    name_sender(static_cast<int>(sender), [&] { throw_wire("length", concat("at most ", limit), length); });
}

std::vector<size_t> Transport::gather_lengths(std::span<const size_t> mine) {
  const std::vector<uint64_t> own(mine.begin(), mine.end());
  const std::vector<uint8_t> all =
      all_gather_sealed(exchange_, {reinterpret_cast<const uint8_t*>(own.data()), 8 * own.size()}, Counted::kYes);
  std::vector<size_t> lengths;
  for (size_t at = 0; at < all.size(); at += 8) lengths.push_back(load<uint64_t>(&all[at]));
  for (const size_t length : lengths) agreed_bytes_ += length - std::min(length, wire::kHeaderBytes);
  return lengths;
}

namespace {

/// The message in a frame; a length of 0 has none.
Bytes message_in(Bytes frame, size_t length, size_t sender) {
  return length == 0 ? Bytes() : open_sealed(frame, length, static_cast<int>(sender));
}

}  // namespace

std::vector<Bytes> Transport::gather(MutableBytes mine, size_t length, std::span<const size_t> limits, bool fixed) {
  const size_t world = limits.size();
  std::vector<size_t> lengths(limits.begin(), limits.end());
  if (!fixed) {
    lengths = gather_lengths({&length, 1});
    for (size_t r = 0; r < world; ++r) check_length(lengths[r], limits[r], r);
  }
  const size_t longest = *std::max_element(lengths.begin(), lengths.end());
  if (longest == 0) return std::vector<Bytes>(world);
  const size_t frame = room(longest);
  const MutableBytes all = receive_memory(world * frame);
  if (mine.size() < frame) {  // somebody's limit is larger than mine
    const MutableBytes wide = arena(pack_, frame);
    std::memcpy(wide.data(), mine.data(), length);
    mine = wide;
  }
  seal(mine, length, exchange_.rank());
  exchange_.all_gather(mine.first(frame), all);
  std::vector<Bytes> messages;
  for (size_t r = 0; r < world; ++r)
    messages.push_back(message_in(Bytes(all).subspan(r * frame, frame), lengths[r], r));
  return messages;
}

std::vector<Bytes> Transport::to_owners(MutableBytes mine, std::span<const size_t> lengths,
                                        std::span<const size_t> limits, bool fixed) {
  const size_t world = limits.size(), rank = static_cast<size_t>(exchange_.rank());
  std::vector<size_t> frames, from_rank(world, limits[rank]);  // by owner; by sender
  for (size_t owner = 0, at = 0; owner < world; ++owner) {
    frames.push_back(room(limits[owner]));
    seal(mine.subspan(at, frames[owner]), lengths[owner], exchange_.rank());
    at += frames[owner];
  }
  Bytes packed = mine;
  if (!fixed) {  // every frame is cut to the longest that any rank sends to that owner, and moved up to its predecessor
    const std::vector<size_t> all = gather_lengths(lengths);  // [sender][owner]
    if (std::all_of(all.begin(), all.end(), [](size_t n) { return n == 0; })) return std::vector<Bytes>(world);
    std::vector<size_t> cut(world, kSealBytes);
    for (size_t r = 0; r < world; ++r)
      for (size_t owner = 0; owner < world; ++owner) {
        check_length(all[r * world + owner], limits[owner], r);
        cut[owner] = std::max(cut[owner], room(all[r * world + owner]));
      }
    const MutableBytes memory = arena(pack_, std::accumulate(cut.begin(), cut.end(), size_t{0}));
    for (size_t owner = 0, from = 0, to = 0; owner < world; ++owner) {
      std::memcpy(memory.data() + to, mine.data() + from, room(lengths[owner]));
      from += frames[owner];
      to += cut[owner];
    }
    packed = memory;
    frames = cut;
    for (size_t r = 0; r < world; ++r) from_rank[r] = all[r * world + rank];
  }
  const size_t frame = frames[rank];
  const MutableBytes received = receive_memory(world * frame);
  exchange_.all_to_all(packed, frames, received, std::vector<size_t>(world, frame));
  std::vector<Bytes> messages;
  for (size_t r = 0; r < world; ++r)
    messages.push_back(message_in(Bytes(received).subspan(r * frame, frame), from_rank[r], r));
  return messages;
}

}  // namespace tsq
