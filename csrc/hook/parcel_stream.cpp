#include "hook/parcel_stream.h"

#include <algorithm>

#include "common/error.h"

namespace tsq {

namespace {

constexpr double kSeen = 0.2;    // of a frame's time, waited for: not only what taking it out of the transport needs
constexpr double kEnough = 0.3;  // of all bytes

}  // namespace

ParcelStream::ParcelStream(Exchange& exchange, Transport& transport, std::vector<size_t> limits, bool fixed,
                           const Clock& clock)
    : exchange_(exchange),
      transport_(transport),
      limits_(std::move(limits)),
      fixed_(fixed),
      clock_(clock),
      world_(static_cast<size_t>(exchange.size())) {
  if (!fixed_) return;
  for (const size_t limit : limits_) lengths_.emplace_back(world_, limit);
}

void ParcelStream::add(MutableBytes memory, size_t length) {
  own_.push_back({memory, length});
  if (!fixed_ && own_.size() == std::min(limits_.size(), Exchange::kUnderWay)) agree_on_first();
  while (can_start()) start();
}

void ParcelStream::agree_on_first() {
  const double begin = clock_();
  std::vector<size_t> mine;
  for (const Own& own : own_) mine.push_back(own.length);
  const std::vector<size_t> all = transport_.gather_lengths(mine);  // [rank][parcel]
  for (size_t p = 0; p < mine.size(); ++p) {
    std::vector<size_t> of_ranks;
    for (size_t r = 0; r < world_; ++r) of_ranks.push_back(all[r * mine.size() + p]);
    take_lengths(p, of_ranks);
  }
  const double took = clock_() - begin;
  agreement_ += took, waited_ += took;
}

void ParcelStream::take_lengths(size_t parcel, std::span<const size_t> lengths) {
  for (size_t r = 0; r < world_; ++r) check_length(lengths[r], limits_[parcel], r);
  lengths_.emplace_back(lengths.begin(), lengths.end());
}

size_t ParcelStream::longest(size_t parcel) const { return *std::ranges::max_element(lengths_[parcel]); }

bool ParcelStream::can_start() const {
  const size_t p = started_;
  if (p == limits_.size() || under_way_.size() == Exchange::kUnderWay || p >= lengths_.size()) return false;
  return own_.size() > (fixed_ ? p : std::min(p + Exchange::kUnderWay, limits_.size() - 1));
}

void ParcelStream::start() {
  const size_t p = started_++, next = p + Exchange::kUnderWay;
  const size_t more = fixed_ ? 0 : kNextBytes, frame = Transport::room(longest(p)) + more;
  const auto [memory, length] = own_[p];
  if (!fixed_) store<uint64_t>(memory.data() + length, next < own_.size() ? own_[next].length : 0);
  seal(memory, length + more, exchange_.rank());
  exchange_.start_all_gather(memory.first(frame));
  under_way_.push_back({frame, clock_()});
}

double ParcelStream::travelled() const {
  if (timed_.bytes < kEnough * all_.bytes) return waited_;
  return agreement_ + timed_.seconds * all_.bytes / timed_.bytes;
}

std::vector<Bytes> ParcelStream::receive() {
  const size_t p = received_++, next = p + Exchange::kUnderWay, more = fixed_ ? 0 : kNextBytes;
  const auto [frame, started] = under_way_.front();
  under_way_.pop_front();
  const MutableBytes all = transport_.receive_memory(world_ * frame);
  const double begin = clock_();
  exchange_.finish_all_gather(all);
  const double now = clock_();
  const double waited = now - begin, took = now - std::max(started, last_arrival_);
  waited_ += waited;
  all_.bytes += static_cast<double>(frame);
  if (waited > kSeen * took) timed_.bytes += static_cast<double>(frame), timed_.seconds += took;
  last_arrival_ = now;
  std::vector<Bytes> messages;
  std::vector<size_t> nexts;
  for (size_t r = 0; r < world_; ++r) {
    const size_t length = lengths_[p][r];
    const Bytes content = open_sealed(Bytes(all).subspan(r * frame, frame), length + more, static_cast<int>(r));
    messages.push_back(content.first(length));
    if (!fixed_) nexts.push_back(load<uint64_t>(content.data() + length));
  }
  if (!fixed_ && next < limits_.size()) take_lengths(next, nexts);
  while (can_start()) start();
  return messages;
}

}  // namespace tsq
