"""Accidents drawn at random in real processes: kills, stops, NaN, other configurations, damaged bytes. No hang, no silent divergence.

Every scenario ends in one of two ways: all ranks have the same averages and the same receiver's state, or every rank that is alive has
raised, in time, and is refused a further step. (The larger part, over the loopback exchange: tests/cpp/hook/random_faults_test.cpp.)
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from models import TINY, grads, loss_of, make_model
from ranks import run_ranks
from torch.nn.parallel import DistributedDataParallel as DDP

import torch_smoothquant as tsq

SPECS = ["ErrorFeedback(Quantizer(bits=4))", "ErrorFeedback(UniformStep(bits=1.0))", "EF21(TopK(ratio=0.1))", "CLAG(TopK(ratio=0.2), zeta=1.0)",
         "Quantizer(bits=4)", "Ada3PC([LAG(zeta=0.5), EF21(TopK(ratio=0.05)), EF21(TopK(ratio=0.5))], [Near(zeta=0.5), Accurate(zeta=0.5)])"]
FAULTS = ["kill", "stop", "long stop", "nan", "other spec", "other seed"]
LIMIT, STEPS = 1.0, 6
WAYS = 24


@dataclass(frozen=True)
class Scenario:
    seed: int
    fault: str
    spec: str
    exchange: str
    world: int
    who: int
    when: int

    @classmethod
    def draw(cls, seed: int) -> Scenario:
        draw = random.Random(seed)
        world = draw.choice((2, 3))
        return cls(seed, FAULTS[seed % len(FAULTS)], draw.choice(SPECS), draw.choice(("all_gather", "sharded")), world,
                   draw.randrange(world), draw.randrange(1, STEPS - 2))


def stop_for(seconds: float) -> None:
    """SIGSTOP to this process; somebody else wakes it up."""
    subprocess.Popen([sys.executable, "-S", "-c", f"import os, time; time.sleep({seconds}); os.kill({os.getpid()}, {signal.SIGCONT.value})"])
    os.kill(os.getpid(), signal.SIGSTOP)


def digest(tensors: Any) -> str:
    return hashlib.sha256(b"".join(t.contiguous().view(torch.uint8).numpy().tobytes() for t in tensors)).hexdigest()


def before_step(s: Scenario, rank: int, step: int) -> None:
    if rank != s.who or step != s.when:
        return
    if s.fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if s.fault in ("stop", "long stop"):
        stop_for(0.2 * LIMIT if s.fault == "stop" else 3 * LIMIT)


def trained(rank: int, world: int, s: Scenario) -> dict[str, Any]:
    out: dict[str, Any] = {"averages": [], "state": None, "error": "", "refused": "", "seconds": 0.0}
    ddp = DDP(make_model(), bucket_cap_mb=TINY)
    other = rank == s.who
    limit = 20.0 if s.fault in ("stop", "nan") else LIMIT  # these must end well, however busy the machine is
    start = time.monotonic()
    try:
        hook = tsq.attach(ddp, "EF21(Sign())" if other and s.fault == "other spec" else s.spec, exchange=s.exchange, timeout=limit,
                          seed=int(other and s.fault == "other seed"))
    except ValueError as error:
        return {**out, "error": str(error), "refused": str(error), "seconds": time.monotonic() - start}
    try:
        for step in range(STEPS):
            ddp.zero_grad()
            loss = loss_of(ddp, rank, step)
            if other and step == s.when and s.fault == "nan":
                loss = loss * float("nan")
            before_step(s, rank, step)
            start = time.monotonic()
            loss.backward()
            out["averages"].append(digest(grads(ddp).values()))
    except RuntimeError as error:
        out["error"], out["seconds"] = str(error), time.monotonic() - start
        try:
            loss_of(ddp, rank, 0).backward()
        except RuntimeError as again:
            out["refused"] = str(again)
        return out
    kept = hook.state_dict()["parameters"]
    side = "delivered." if s.exchange == "sharded" else "received."
    out["state"] = digest(v["values"] for entry in kept.values() for name, v in sorted(entry.items(), key=lambda e: e[0])
                          if name.startswith(side))
    return out


def check(s: Scenario, results: list[dict[str, Any] | None]) -> bool:
    """True if all came to the end."""
    alive = [r for r in results if r is not None]
    stopped = [r for r in alive if r["error"]]
    assert len(stopped) in (0, len(alive)), f"{s}: some ranks go on without the others: {alive}"
    for r in alive:
        common = min(len(r["averages"]), len(alive[0]["averages"]))
        assert r["averages"][:common] == alive[0]["averages"][:common], f"{s}: averages differ"
        assert not stopped or r["refused"], f"{s}: a further step is not refused: {r}"
        assert r["seconds"] < 4 * LIMIT + 3, f"{s}: late: {r}"
    assert stopped or len({r["state"] for r in alive}) == 1, f"{s}: state differs"
    if s.fault in ("stop", "nan"):
        assert not stopped, f"{s}: {stopped}"
    else:
        assert stopped, s
    if s.fault.startswith("other"):
        assert all("attach: the ranks differ" in r["error"] for r in alive), f"{s}: {alive}"
    return not stopped


def test_random_faults_in_real_processes(capsys: pytest.CaptureFixture[str]) -> None:
    ends: Counter[tuple[str, str]] = Counter()
    for seed in range(WAYS):
        s = Scenario.draw(seed)
        results = run_ranks(trained, s.world, s, timeout=60, may_die=[s.who] if s.fault == "kill" else [])
        assert (results[s.who] is None) == (s.fault == "kill")
        ends[s.fault, "equal" if check(s, results) else "stopped"] += 1
    with capsys.disabled():
        print(f"\n{WAYS} faults in real processes: " + "; ".join(f"{fault} {n} {end}" for (fault, end), n in sorted(ends.items())))
