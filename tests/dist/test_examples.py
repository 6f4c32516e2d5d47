"""What a newcomer runs first, as they run it: the demo (its quick form) and the examples."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

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


def losses(out: str) -> list[float]:
    return [float(line.split("held-out loss ")[1].split()[0].rstrip(",")) for line in out.splitlines() if "held-out loss" in line]


def example(script: str, *options: str) -> str:
    return run("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", f"examples/{script}", *options)


def test_digits_learn_and_resume(tmp_path):
    checkpoint = tmp_path / "mnist.pt"
    options = ("--optimizer", "sgd", "--spec", "ErrorFeedback(UniformStep(bits=1.0))", "--checkpoint", str(checkpoint))
    first = example("mnist_ddp.py", "--steps", "60", *options)
    second = example("mnist_ddp.py", "--steps", "120", *options)
    assert "after 60 steps" in first and "after 120 steps" in second
    assert losses(second)[-1] < losses(first)[-1] < 1.2 < 2.3  # ln 10 is where it starts
    sent, dense = (int(number.replace(",", "")) for number in re.findall(r"[\d,]*\d", second.split("bytes:")[1])[:2])
    assert dense == 60 * 4 * (784 * 128 + 128 + 128 * 10 + 10)  # the 60 steps of this process, no more
    assert 0 < sent < dense / 12
    assert "60 buckets" in second


def test_language_model_in_both_directions_against_plain(tmp_path):
    checkpoint = tmp_path / "charlm.pt"
    ours = example("charlm_ddp.py", "--steps", "12", "--spec", "ErrorFeedback(Quantizer(bits=4))", "--down",
                   "ErrorFeedback(Quantizer(bits=3))", "--checkpoint", str(checkpoint))
    plain = example("charlm_ddp.py", "--steps", "12", "--plain")
    assert abs(losses(ours)[-1] - losses(plain)[-1]) < 0.1 and losses(ours)[-1] < 4.0  # ln 65 = 4.2 is where it starts
    down = int(re.search(r"([\d,]+) down", ours)[1].replace(",", ""))
    assert down > 0
    state = torch.load(checkpoint, weights_only=True)
    assert state["done"] == 12 and state["hook"]["mode"] == "mean" and state["hook"]["down"] == "ErrorFeedback(Quantizer(bits=3))"
