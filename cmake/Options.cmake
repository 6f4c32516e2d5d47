# One set of compile options for every target of ours.
include(CheckCXXCompilerFlag)

function(tsq_options target)
  # -ffp-contract=off: the same bytes on every machine (docs/wire_format.md forbids fused multiply-add).
  target_compile_options(${target} PRIVATE -Wall -Wextra -Werror -ffp-contract=off -fno-math-errno)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    target_compile_options(${target} PRIVATE -march=x86-64-v2)  # Highway picks AVX2 and AVX-512 at run time
  endif()
  if(CMAKE_BUILD_TYPE STREQUAL "Release")
    target_compile_options(${target} PRIVATE -O3)
  endif()
  if(TSQ_SANITIZE)
    target_compile_options(${target} PRIVATE -fsanitize=${TSQ_SANITIZE} -fno-omit-frame-pointer -g -O1)
    if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")  # g++ 12 reports false ones from inlined system headers under sanitizers
      target_compile_options(${target} PRIVATE -Wno-maybe-uninitialized)
    endif()
    target_link_options(${target} PRIVATE -fsanitize=${TSQ_SANITIZE})
  endif()
endfunction()
