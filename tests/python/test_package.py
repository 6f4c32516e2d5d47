"""The package as it is installed: refuses another torch, keeps Python out of the data path, documents its names."""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import torch_smoothquant as tsq

PACKAGE = Path(tsq.__file__).resolve().parent


@pytest.mark.parametrize(("built_for", "running"), [
    ("2.13.0", "2.12.1"), ("2.13.0", "2.14.0+cpu"), ("2.13.0", "3.13.0"), ("2.1.0", "2.13.0")])
def test_another_torch_minor_is_refused_in_one_sentence(built_for, running):
    with pytest.raises(ImportError) as caught:
        tsq._check_build(built_for, running)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 200
    assert ".".join(built_for.split(".")[:2]) in text and running in text and "reinstall" in text


@pytest.mark.parametrize(("built_for", "running"), [("2.13.0", "2.13.0+cpu"), ("2.13.0", "2.13.1"), ("2.13.0+cu130", "2.13.0+cpu")])
def test_the_same_minor_is_accepted(built_for, running):
    tsq._check_build(built_for, running)


def test_built_for_the_torch_that_runs():
    assert tsq.built_for_torch.split(".")[:2] == torch.__version__.split("+")[0].split(".")[:2]
    assert tsq._C.built_for_torch.split(".")[:2] == tsq.built_for_torch.split(".")[:2]


def dynamic_symbols(tool: str, *arguments: str) -> str:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} (binutils) is not installed")
    return subprocess.run([tool, *arguments], check=True, capture_output=True, text=True).stdout


def test_the_library_needs_no_python():
    library = PACKAGE / "libtorch_smoothquant.so"
    names = [line.split()[-1] for line in dynamic_symbols("nm", "-D", "--undefined-only", str(library)).splitlines()]
    assert len(names) > 20  # it does link against something
    assert [name for name in names if re.match(r"_?Py|.*pybind11|.*PyObject", name)] == []


def test_the_library_links_no_python_library():
    needed = re.findall(r"NEEDED.*\[(.*)\]", dynamic_symbols("readelf", "-d", str(PACKAGE / "libtorch_smoothquant.so")))
    assert "libtorch_cpu.so" in needed
    assert [name for name in needed if "python" in name] == []


@pytest.mark.parametrize("name", tsq.__all__)
def test_every_public_name_is_documented(name):
    thing = getattr(tsq, name)
    assert (thing.__doc__ or "").strip(), f"{name} has no docstring"
    assert not thing.__doc__.startswith(f"{name}("), f"{name} has the docstring that dataclass writes"
    if inspect.isclass(thing):
        for key, member in vars(thing).items():
            if not key.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
                assert member.__doc__, f"{name}.{key} has no docstring"


def test_names_and_types_are_shipped():
    assert sorted(set(tsq.__all__)) == sorted(tsq.__all__)
    assert (PACKAGE / "py.typed").exists()
    assert re.fullmatch(r"\d+\.\d+\.\d+", tsq.__version__)
