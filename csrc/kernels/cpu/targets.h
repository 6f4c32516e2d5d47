// Which Highway targets the kernels are compiled for. To be included before any other header of Highway.
#pragma once

// Three levels of x86, and NEON. What lies between or beyond them (SSSE3, AVX3_DL, ...) would add code and no speed,
// and scalable vectors (SVE, RISC-V) do not allow the arrays of vectors that the kernels use. Where the build's
// baseline is below all of these, the fallbacks are compiled too; they forward to the scalar oracle.
#define TSQ_HWY_FALLBACKS (HWY_EMU128 | HWY_SCALAR)
#define HWY_DISABLED_TARGETS (~(HWY_SSE4 | HWY_AVX2 | HWY_AVX3 | HWY_NEON | HWY_NEON_WITHOUT_AES | TSQ_HWY_FALLBACKS))

#include "hwy/detect_targets.h"

#ifndef HWY_NEON_WITHOUT_AES  // since Highway 1.0.4
#define HWY_NEON_WITHOUT_AES 0
#endif

// True while a target with vectors is being compiled. The per-target headers are included for the fallbacks as well,
// and are empty then: their include guards must see every target.
#define TSQ_HWY_VECTORS ((HWY_TARGET & TSQ_HWY_FALLBACKS) == 0)
