#!/usr/bin/env bash
# Everything that building needs, on a bare machine: uses what is installed, else apt where it may, else pip and CMake's FetchContent.
# Quick when nothing is missing. Usage: scripts/setup.sh [build|test|demo|lint|links|neon]...
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
torch_pin=${TORCH_PIN:-torch==2.13.0}
venv=.venv

have() { command -v "$1" >/dev/null 2>&1; }
have_header() { echo "#include <$1>" | ${CXX:-c++} -std=c++20 -E -x c++ - >/dev/null 2>&1; }

apt_packages=() foreign=
want() { apt_packages+=("$1"); }

have c++ || want g++
have cmake || want cmake
have ninja || want ninja-build
have ccache || want ccache
have_header hwy/highway.h || want libhwy-dev
for goal in "$@"; do
  case $goal in
    test) have_header gtest/gtest.h || want libgtest-dev ;;
    bench) have_header benchmark/benchmark.h || want libbenchmark-dev ;;
    lint) have clang-format || want clang-format ;;
    fuzz) have clang++ || want clang ;;
    links) have tc || want iproute2 ;;
    neon)
      have aarch64-linux-gnu-g++ || want g++-aarch64-linux-gnu
      have qemu-aarch64-static || want qemu-user-static
      # the libraries for ARM: Debian's, which need its architecture enabled
      [ -e /usr/lib/aarch64-linux-gnu/libhwy.so ] || { want libhwy-dev:arm64; foreign=arm64; }
      [ -e /usr/lib/aarch64-linux-gnu/libgtest.a ] || { want libgtest-dev:arm64; foreign=arm64; }
      ;;
  esac
done

if [ ${#apt_packages[@]} -gt 0 ] && have apt-get && [ "$(id -u)" = 0 ]; then
  echo "setup: installing ${apt_packages[*]}"
  export DEBIAN_FRONTEND=noninteractive
  [ -z "$foreign" ] || dpkg --add-architecture "$foreign"
  apt-get update -qq || true
  if [ -z "$foreign" ]; then
    apt-get install -y -qq "${apt_packages[@]}" >/dev/null
  else  # optional: whoever asked sees what is missing
    apt-get install -y -qq "${apt_packages[@]}" >/dev/null || echo "setup: could not install ${apt_packages[*]}"
  fi
elif [ ${#apt_packages[@]} -gt 0 ]; then
  echo "setup: not installed and not root: ${apt_packages[*]} (CMake fetches the libraries; cmake and ninja come with pip)"
fi

if [ ! -x $venv/bin/python ]; then
  echo "setup: making $venv"
  $python -m venv $venv
fi
pip() { $venv/bin/python -m pip install --quiet --disable-pip-version-check "$@"; }
has_module() { $venv/bin/python -c "import importlib.util as u, sys; sys.exit(not all(u.find_spec(m) for m in sys.argv[1:]))" "$@"; }

$venv/bin/python - <<'PY' 2>/dev/null || { echo "setup: installing $torch_pin"; pip "$torch_pin"; }
import sys
from importlib.metadata import version
sys.exit(not version("torch").startswith("2.13."))
PY
has_module setuptools wheel numpy || pip "setuptools>=68" wheel numpy
have cmake || pip cmake
have ninja || pip ninja
for goal in "$@"; do
  case $goal in
    test) has_module pytest pytest_timeout scipy || pip "pytest>=8" "pytest-timeout>=2.2" "scipy>=1.10" ;;
    demo) has_module matplotlib tqdm || pip "matplotlib>=3.7" "tqdm>=4.60" ;;
    lint) has_module ruff mypy || pip "ruff>=0.6" "mypy>=1.10" ;;
  esac
done
