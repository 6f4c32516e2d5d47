"""The golden messages of tests/golden: the reference writes exactly these bytes and reads exactly these values."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
_spec = importlib.util.spec_from_file_location("make_golden", GOLDEN / "make_golden.py")
assert _spec is not None and _spec.loader is not None
make_golden = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make_golden)
reference = make_golden.reference

MANIFEST = json.loads((GOLDEN / "manifest.json").read_text())
each_message = pytest.mark.parametrize("entry", MANIFEST, ids=lambda entry: entry["file"])


def stored(entry: dict) -> torch.Tensor:
    return torch.tensor(list((GOLDEN / entry["file"]).read_bytes()), dtype=torch.uint8)


@each_message
def test_file_is_what_the_manifest_says(entry):
    message = stored(entry)
    assert message.numel() == entry["bytes"] < 4096
    assert make_golden.digest(message) == entry["message_sha256"]


@each_message
def test_encodes_to_these_bytes(entry):
    assert torch.equal(make_golden.build(entry), stored(entry))


@each_message
def test_whole_message_encoders_agree(entry):
    if not make_golden.encode_makes(entry):
        pytest.skip("not what encode makes")
    (s,) = entry["sections"]
    x = make_golden.make_input(s["input"], getattr(torch, entry["dtype"]))
    name = s["codec"] if "arguments" in s else "Quantizer"
    arguments = s.get("arguments") or {key: s[key] for key in ("bits", "block", "levels", "rounding", "scale_dtype") if key in s}
    arguments = {f"{key}_": v for key, v in arguments.items()}
    message = reference.encode(x, name, entry["seed"], entry["step"], entry["rank"], entry.get("world_size", 1), **arguments)
    assert torch.equal(message, stored(entry))


@each_message
def test_decodes_to_these_values(entry):
    message = stored(entry)
    decoded = reference.decode(message)
    assert str(decoded.dtype) == f"torch.{entry['dtype']}"
    assert make_golden.digest(decoded) == entry["decoded_sha256"]
    assert make_golden.digest(make_golden.values_of(message)) == entry["values_sha256"]


def test_manifest_and_files_are_not_stale():
    assert {path.name for path in GOLDEN.glob("*.bin")} == {entry["file"] for entry in MANIFEST}
    for name, data in make_golden.make().items():
        assert (GOLDEN / name).read_bytes() == data, f"{name}: run tests/golden/make_golden.py"
