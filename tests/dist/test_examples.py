"""What a newcomer runs first, as they run it: the demo (its quick form) and the ten-line example."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str) -> str:
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_demo_measures_and_draws(tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("tqdm")
    picture, figures = tmp_path / "demo.png", tmp_path / "demo.json"
    out = run("-m", "examples.demo", "--quick", "--methods", "plain", "ours", "--spec", "ErrorFeedback(Quantizer(bits=2))",
              "--output", str(picture), "--json", str(figures))
    assert "torch_smoothquant" in out and "MODEL" in out
    assert picture.read_bytes()[:4] == b"\x89PNG"
    plain, ours, two_bits = json.loads(figures.read_text())["methods"]
    assert plain["ratio"] == 1 and 5 < ours["ratio"] < two_bits["ratio"]  # a tiny model: many exempt parameters
    assert plain["bytes_per_step"] >= plain["counted_per_step"] > 0


def test_ten_line_example():
    out = run("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "examples/minimal_ddp.py")
    losses = [float(line.split()[-1]) for line in out.splitlines() if line.startswith("step")]
    assert len(losses) == 4 and losses[-1] < losses[0]
    assert "bytes sent" in out
