// libFuzzer: any bytes through the checks of a message and, where they pass, through its decoder.
//   message_fuzz -max_len=4096 WORK_DIR tests/golden
#include "common/buffer.h"
#include "common/error.h"
#include "compressors/message.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tsq;
  try {
    uint64_t numel = 0;
    const wire::Message message = check_message({data, size}, &numel);
    if (numel > 1'000'000) return 0;
    const Buffer out(numel, message.header.dtype);
    decode_message(message, out.view());
  } catch (const WireError&) {
  }
  return 0;
}
