# make demo, make test: each does its own set-up on a bare machine and is quick the second time.
SHELL := /bin/bash
.DEFAULT_GOAL := help
export PATH := $(CURDIR)/.venv/bin:$(PATH)

PYTHON_VENV := .venv/bin/python
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
CORE := cmake -G Ninja -DTSQ_TORCH=OFF
TESTS := build/tests
CXX_FILES = $(shell git ls-files --cached --others --exclude-standard 'csrc/*' 'tests/cpp/*' 'tests/fuzz/*.cpp' 'benchmarks/kernels/*' | grep -E '\.(h|cpp)$$')

.PHONY: help
help:  ## This list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

.PHONY: build
build:  ## Build the library into .venv (editable install)
	@scripts/setup.sh build
	@$(MAKE) --no-print-directory install

# The first time through pip, which registers the package; later straight through CMake.
.PHONY: install
install:
	@if $(PYTHON_VENV) -c "from importlib.metadata import version; version('torch-smoothquant')" 2>/dev/null \
	    && [ -f build/$(BUILD_TAG)/build.ninja ]; then \
	  cmake --build build/$(BUILD_TAG) --parallel $(JOBS) --target _C \
	    && cmake --install build/$(BUILD_TAG) --prefix . >/dev/null; \
	else \
	  MAX_JOBS=$(JOBS) $(PYTHON_VENV) -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .; \
	fi
BUILD_TAG = $(shell $(PYTHON_VENV) -c "import sys; print('cp%d%d' % sys.version_info[:2])")

.PHONY: demo
demo:  ## Train a small language model over 2 processes: plain DDP, fp16, PowerSGD, ours; table and demo.png
	@scripts/setup.sh build demo
	@$(MAKE) --no-print-directory install
	$(PYTHON_VENV) -m examples.demo $(ARGS)

.PHONY: test
test: test-cpp test-python  ## All tests, C++ and Python

.PHONY: test-cpp
test-cpp:
	@scripts/setup.sh test
	@$(CORE) -S . -B $(TESTS) -DTSQ_TESTS=ON >/dev/null || exit 1
	cmake --build $(TESTS) --parallel $(JOBS)
	$(TESTS)/tsq_core_test --gtest_brief=1

.PHONY: test-python
test-python:
	@scripts/setup.sh build test demo
	@$(MAKE) --no-print-directory install
	$(PYTHON_VENV) -m pytest -q $(ARGS)

.PHONY: bench
bench:  ## Kernels and codecs against memcpy; with root also whole steps over slow links
	@scripts/setup.sh build bench links demo
	@$(MAKE) --no-print-directory install
	$(CORE) -S . -B build/bench -DTSQ_BENCHMARKS=ON
	cmake --build build/bench --parallel $(JOBS)
	build/bench/bench_kernels
	build/bench/bench_uniform_step
	$(PYTHON_VENV) -m benchmarks.codecs
	@if [ "$$(id -u)" = 0 ]; then $(PYTHON_VENV) -m benchmarks.links $(ARGS); \
	else echo "benchmarks.links makes network namespaces: run it as root"; fi

.PHONY: lint
lint:  ## Formatting, ruff, mypy
	@scripts/setup.sh lint
	clang-format --dry-run -Werror $(CXX_FILES)
	$(PYTHON_VENV) -m ruff check .
	$(PYTHON_VENV) -m mypy

.PHONY: format
format:  ## Reformat C++ and Python
	@scripts/setup.sh lint
	clang-format -i $(CXX_FILES)
	$(PYTHON_VENV) -m ruff check --fix .

.PHONY: sanitize
sanitize:  ## C++ tests under ASan + UBSan, then the threads under TSan
	@scripts/setup.sh test
	$(CORE) -S . -B build/asan -DTSQ_TESTS=ON -DTSQ_SANITIZE=address,undefined
	cmake --build build/asan --parallel $(JOBS)
	UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 build/asan/tsq_core_test --gtest_brief=1
	$(CORE) -S . -B build/tsan -DTSQ_TESTS=ON -DTSQ_SANITIZE=thread
	cmake --build build/tsan --parallel $(JOBS)
	TSAN_OPTIONS=halt_on_error=1 build/tsan/tsq_core_test --gtest_brief=1 --gtest_filter='Parallel*:Sweep*:*Pipeline*:*Averager*:*Loopback*:*Agreement*'

NEON_FILTER ?= *Simd*:Golden.*:*Scales*:*Philox*:Slices.*:Scans.*:Half*:TopK*
.PHONY: test-neon
test-neon:  ## Kernels and golden messages on 64-bit ARM: cross-compiled, under QEMU (with apt and root; else skipped)
	@scripts/setup.sh neon
	@if ! command -v aarch64-linux-gnu-g++ >/dev/null || ! command -v qemu-aarch64-static >/dev/null; then \
	  echo "test-neon: skipped: needs aarch64-linux-gnu-g++ and qemu-aarch64-static"; \
	else \
	  $(CORE) -S . -B build/neon -DTSQ_TESTS=ON -DCMAKE_TOOLCHAIN_FILE=cmake/aarch64-linux-gnu.cmake >/dev/null \
	    || { echo "test-neon: skipped: no Highway or GoogleTest for ARM"; exit 0; }; \
	  cmake --build build/neon --parallel $(JOBS) \
	    && qemu-aarch64-static build/neon/tsq_core_test --gtest_brief=1 --gtest_filter='$(NEON_FILTER)'; \
	fi

FUZZ_SECONDS ?= 60
.PHONY: fuzz
fuzz:  ## libFuzzer on messages, on every codec's decoder and on the spec parser (clang), FUZZ_SECONDS each
	@scripts/setup.sh fuzz
	$(CORE) -S . -B build/fuzz -DTSQ_FUZZ=ON -DCMAKE_CXX_COMPILER=clang++
	cmake --build build/fuzz --parallel $(JOBS)
	@mkdir -p build/fuzz/corpus_message build/fuzz/corpus_spec
	build/fuzz/message_fuzz -max_total_time=$(FUZZ_SECONDS) build/fuzz/corpus_message tests/golden
	for codec in $$($(PYTHON_VENV) tests/fuzz/make_corpus.py build/fuzz/seeds); do \
	  mkdir -p build/fuzz/corpus_codec_$$codec; \
	  TSQ_FUZZ_CODEC=$$codec build/fuzz/codec_fuzz -max_total_time=$(FUZZ_SECONDS) build/fuzz/corpus_codec_$$codec build/fuzz/seeds/$$codec || exit 1; \
	done
	build/fuzz/spec_fuzz -max_total_time=$(FUZZ_SECONDS) build/fuzz/corpus_spec tests/fuzz/corpus_spec

.PHONY: clean
clean:  ## Remove what was built (not .venv)
	rm -rf build torch_smoothquant/*.so torch_smoothquant/_build.py *.egg-info
