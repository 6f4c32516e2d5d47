#include "exchange/sealed.h"

#include <algorithm>

#include "common/checksum.h"
#include "common/error.h"

namespace tsq {

void seal(MutableBytes frame, size_t length, int sender) {
  store<uint64_t>(frame.data() + length, checksum(frame.first(length), static_cast<uint64_t>(sender)));
}

Bytes open_sealed(Bytes frame, size_t length, int sender) {
  const Bytes content = frame.first(length);
  const uint64_t stated = load<uint64_t>(frame.data() + length),
                 found = checksum(content, static_cast<uint64_t>(sender));
  if (stated != found) name_sender(sender, [&] { throw_wire("checksum", stated, found); });
  return content;
}

std::vector<uint8_t> all_gather_sealed(Exchange& exchange, Bytes mine, Counted counted) {
  const auto world = static_cast<size_t>(exchange.size());
  const size_t size = mine.size(), frame = size + kSealBytes;
  std::vector<uint8_t> sealed(frame), frames(world * frame), all(world * size);
  std::copy(mine.begin(), mine.end(), sealed.begin());
  seal(sealed, size, exchange.rank());
  if (counted == Counted::kYes)
    exchange.all_gather(sealed, frames);
  else
    exchange.all_gather_uncounted(sealed, frames);
  for (size_t r = 0; r < world; ++r) {
    const Bytes content = open_sealed(Bytes(frames).subspan(r * frame, frame), size, static_cast<int>(r));
    std::copy(content.begin(), content.end(), all.begin() + static_cast<std::ptrdiff_t>(r * size));
  }
  return all;
}

}  // namespace tsq
