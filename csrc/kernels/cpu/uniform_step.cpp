#include "kernels/uniform_step.h"

namespace tsq::kernels {

bool quantize_uniform(const UniformGrid& grid, Form form, ConstView x, void* state, uint64_t offset,
                      UniformCodes& out) {
  return scalar::quantize_uniform(grid, form, x, state, offset, out);
}
UniformCounts count_uniform(const UniformCodes& codes) { return scalar::count_uniform(codes); }
uint16_t* encode_rans(const UniformCodes& codes, const RansTable& flags, const RansTable& magnitudes, uint32_t* states,
                      uint16_t* end) {
  return scalar::encode_rans(codes, flags, magnitudes, states, end);
}
const uint8_t* decode_rans(const RansTable& flags, const RansTable& magnitudes, uint32_t* states, const uint8_t* in,
                           const uint8_t* end, UniformCodes& codes) {
  return scalar::decode_rans(flags, magnitudes, states, in, end, codes);
}
void add_uniform(const UniformCodes& codes, float step, double scale, View acc) {
  scalar::add_uniform(codes, step, scale, acc);
}

}  // namespace tsq::kernels
