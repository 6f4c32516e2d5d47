// libFuzzer: any text through the parser of specs; what parses must read back from its own spec().
//   spec_fuzz -max_len=512 WORK_DIR tests/fuzz/corpus_spec
#include <cstdlib>

#include "common/error.h"
#include "common/expression.h"
#include "mechanisms/registry.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tsq;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const std::string printed = to_string(parse_expression(text));
    if (to_string(parse_expression(printed)) != printed) std::abort();
  } catch (const SpecError&) {
  }
  std::string spec;
  try {
    spec = parse_mechanism(text)->spec();
  } catch (const SpecError&) {
    return 0;
  }
  if (parse_mechanism(spec)->spec() != spec) std::abort();  // a SpecError here is a crash, too
  return 0;
}
