"""CMake has the list of sources; setuptools only drives it: pip install --no-build-isolation [-e] ."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


class CMakeBuild(build_ext):
    def build_extension(self, ext):
        try:
            import torch
        except ModuleNotFoundError as error:
            raise SystemExit("torch is not importable: install it first, then build with --no-build-isolation") from error
        build = ROOT / "build" / f"cp{sys.version_info[0]}{sys.version_info[1]}"  # kept: the next build is incremental
        generator = ["-G", "Ninja"] if shutil.which("ninja") else []
        run = subprocess.check_call
        run(["cmake", "-S", str(ROOT), "-B", str(build), *generator, "-DCMAKE_BUILD_TYPE=Release",
             f"-DPython3_EXECUTABLE={sys.executable}", f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}",
             *os.environ.get("CMAKE_ARGS", "").split()])
        run(["cmake", "--build", str(build), "--parallel", os.environ.get("MAX_JOBS", str(os.cpu_count() or 2)),
             "--target", "_C"])
        # Where setuptools wants _C; for an editable install also the source folder, because setuptools copies back _C alone and not the
        # library beside it.
        staging = Path(self.get_ext_fullpath(ext.name)).resolve().parent.parent
        editable = self.inplace or getattr(self, "editable_mode", False)
        for prefix in [staging, ROOT] if editable else [staging]:
            run(["cmake", "--install", str(build), "--prefix", str(prefix)])


setup(ext_modules=[Extension("torch_smoothquant._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
