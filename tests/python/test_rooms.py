"""Rooms and arrows: who may include and import whom (CONTRIBUTING.md). Closed under following arrows."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CSRC, PACKAGE = ROOT / "csrc", ROOT / "torch_smoothquant"

ARROWS = {
    "bindings": {"hook"},
    "hook": {"mechanisms", "policy", "exchange"},
    "ops": {"compressors", "kernels"},
    "mechanisms": {"compressors"},
    "compressors": {"kernels", "wire", "smoothness"},
    "policy": {"compressors", "smoothness"},
    "exchange": {"common"}, "kernels": {"common"}, "wire": {"common"}, "smoothness": {"common"}, "common": set(),
}
MAY_USE_TORCH = {"bindings", "ops"}  # whole rooms; besides these, by file:
TORCH_FILES = {"common/torch_dtype.h", *(f"{stem}.{end}" for stem in ("hook/comm_hook", "exchange/process_group") for end in ("h", "cpp"))}
PYTHON_ARROWS = {"smoothness": {"_C"}, "spec": {"_C", "smoothness"}, "compressors": {"spec"}, "mechanisms": {"spec"},
                 "parser": {"_C", "compressors", "mechanisms", "spec"}, "checks": set(),
                 "endpoint": {"_C", "checks", "parser", "policies", "smoothness", "spec"},
                 "hook": {"_C", "assignment", "checks", "mechanisms", "never_slower", "optimizers", "parser", "policies", "running", "spec",
                          "checkpoint", "watch"},
                 "running": {"checks"}, "optimizers": set(),
                 "assignment": {"parser", "spec"},
                 "policy": {"_C"}, "never_slower": {"_C", "checks", "mechanisms", "parser", "policy", "running", "spec"},
                 "policies": {"_C", "assignment", "never_slower", "parser", "policy", "spec"},
                 "checkpoint": {"_C", "checks"}, "watch": {"_C", "never_slower"}, "_build": set()}
# the reference must not see the library that it judges; inside it the codecs see wire and philox, and codec 1's payload
REFERENCE_ARROWS = {"wire": set(), "philox": set(), "mixed": {"quantizer"}, "codes": {"quantizer"}, "values": {"quantizer"},
                    "sparse": {"values"}, "subset": {"sparse", "values"}, "dithering": {"levels"}, "stepped": {"dithering", "levels"}}

SOURCES = sorted(str(p.relative_to(CSRC)) for p in CSRC.rglob("*") if p.suffix in {".h", ".cpp", ".cc", ".cu", ".hpp"})


def includes(source: str) -> list[str]:
    return re.findall(r'^\s*#\s*include\s*[<"]([^">]+)[">]', (CSRC / source).read_text(), re.MULTILINE)


def room(path: str) -> str:
    return path.split("/")[0]


def reachable(start: str) -> set[str]:
    return {start}.union(*(reachable(next_) for next_ in ARROWS[start]))


def reaches_torch(source: str, seen: frozenset[str] = frozenset()) -> bool:
    if source not in SOURCES or source in seen:
        return room(source) in {"torch", "ATen", "c10"}
    return any(reaches_torch(i, seen | {source}) for i in includes(source))


def test_every_room_is_known():
    assert len(SOURCES) > 30
    assert {room(s) for s in SOURCES} <= set(ARROWS)


@pytest.mark.parametrize("source", SOURCES)
def test_includes_obey_the_arrows(source):
    for name in includes(source):
        if room(name) in ARROWS:
            assert (CSRC / name).exists(), f"{source} includes {name}, which is not there"
            assert room(name) in reachable(room(source)), f"{source} includes {name} against the arrows"
        if re.match(r"pybind11/|Python\.h|torch/csrc/utils/pybind\.h|torch/csrc/jit/python/|torch/extension\.h", name):
            assert room(source) == "bindings", f"{source} includes {name}: only bindings may"
    if room(source) not in MAY_USE_TORCH and source not in TORCH_FILES:
        assert not reaches_torch(source), f"{source} must stay free of torch, and includes {includes(source)}"


def imports(module: str, package: Path = PACKAGE) -> set[str]:
    """Top-level names of absolute imports; relative ones as '.name'."""
    out: set[str] = set()
    for node in ast.walk(ast.parse((package / f"{module}.py").read_text())):
        if isinstance(node, ast.Import):
            out |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            relative = {f".{node.module}"} if node.module else {f".{alias.name}" for alias in node.names}
            out |= relative if node.level else {(node.module or "").split(".")[0]}
    return out


@pytest.mark.parametrize("module", sorted(p.stem for p in PACKAGE.glob("*.py") if p.stem != "__init__"))
def test_python_imports_obey_the_arrows(module):
    own = {name[1:] for name in imports(module) if name.startswith(".")}
    assert own <= PYTHON_ARROWS[module], f"{module} imports {own - PYTHON_ARROWS[module]}"
    foreign = {name for name in imports(module) if not name.startswith(".")} - set(sys.stdlib_module_names)
    assert foreign <= {"torch"}, f"{module} imports {foreign}"
    assert "torch_smoothquant" not in foreign


@pytest.mark.parametrize("module", sorted(p.stem for p in (PACKAGE / "reference").glob("*.py") if p.stem != "__init__"))
def test_reference_imports_obey_the_arrows(module):
    own = {name for name in imports(module, PACKAGE / "reference") if name.startswith(".")}
    allowed = {"wire", "philox", *REFERENCE_ARROWS.get(module, set())} if REFERENCE_ARROWS.get(module) != set() else set()
    assert {name[1:] for name in own} <= allowed, f"{module} imports {own}"


def test_the_checks_would_notice(tmp_path, monkeypatch):
    (tmp_path / "wire").mkdir()
    (tmp_path / "wire" / "bad.h").write_text('#include "hook/pipeline.h"\n#  include <ATen/ATen.h>\n')
    monkeypatch.setattr(sys.modules[__name__], "CSRC", tmp_path)
    monkeypatch.setattr(sys.modules[__name__], "SOURCES", ["wire/bad.h"])
    assert includes("wire/bad.h") == ["hook/pipeline.h", "ATen/ATen.h"]
    assert "hook" not in reachable("wire") and reaches_torch("wire/bad.h")
