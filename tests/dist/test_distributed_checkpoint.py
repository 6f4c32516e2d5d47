"""The hook's state through torch.distributed.checkpoint: mode "mean" beside model and optimizer, for any world size; mode "rank" under a
key of each rank's own, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from models import TINY, flat, make_model, sgd, train
from ranks import run_ranks
from torch.nn.parallel import DistributedDataParallel as DDP

import torch_smoothquant as tsq

SPECS = {"ErrorFeedback(UniformStep(bits=1.0))": "all_gather", "EF21(TopK(ratio=0.1), momentum=0.2)": "sharded"}


def in_rank_mode(rank: int, world: int, spec: str, exchange: str, folder: Path, resume: bool) -> torch.Tensor:
    ddp = DDP(make_model(), bucket_cap_mb=TINY)
    hook, optimizer = tsq.attach(ddp, spec, exchange=exchange), sgd(ddp)
    train(ddp, optimizer, rank, range(1 if resume else 6))  # a step makes all state that there is
    state = {"model": ddp.module.state_dict(), "optimizer": optimizer.state_dict(), f"hook of rank {rank}": hook.state_dict()}
    if resume:
        dcp.load(state, checkpoint_id=folder)  # into what is there
        ddp.module.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        hook.load_state_dict(state[f"hook of rank {rank}"])
    else:
        dcp.save(state, checkpoint_id=folder)
    train(ddp, optimizer, rank, range(6, 10))
    return flat(ddp)


@pytest.mark.parametrize(("spec", "exchange"), SPECS.items())
def test_resumed_is_straight_bit_for_bit(spec, exchange, tmp_path):
    expected = run_ranks(in_rank_mode, 3, spec, exchange, tmp_path, False)
    found = run_ranks(in_rank_mode, 3, spec, exchange, tmp_path, True)
    assert all(torch.equal(expected[0], weights) for weights in expected + found)


def in_mean_mode(rank: int, world: int, spec: str, exchange: str, folder: Path, start: str | None, step: int) -> dict[str, Any]:
    ddp = DDP(make_model(), bucket_cap_mb=TINY)
    hook, optimizer, loaded = tsq.attach(ddp, spec, exchange=exchange), sgd(ddp), None
    train(ddp, optimizer, rank, [step])
    if start:
        state = {"model": ddp.module.state_dict(), "optimizer": optimizer.state_dict(), "hook": hook.state_dict(mode="mean")}
        dcp.load(state, checkpoint_id=folder / start)
        ddp.module.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        hook.load_state_dict(state["hook"])
        loaded = hook.state_dict()
    train(ddp, optimizer, rank, range(step, step + 4))
    saved = hook.state_dict(mode="mean")
    dcp.save({"model": ddp.module.state_dict(), "optimizer": optimizer.state_dict(), "hook": saved}, checkpoint_id=folder / f"of_{world}")
    return {"saved": saved, "loaded": loaded, "weights": flat(ddp)}


@pytest.mark.parametrize(("spec", "exchange"), SPECS.items())
def test_the_mean_fits_other_world_sizes(spec, exchange, tmp_path):
    start, saved = None, None
    for step, world in enumerate((4, 2, 3)):
        results = run_ranks(in_mean_mode, world, spec, exchange, tmp_path, start, 10 * step)
        assert all(torch.equal(r["weights"], results[0]["weights"]) for r in results)
        for r in results:
            for name, entry in (saved or {"parameters": {}})["parameters"].items():
                for key in (k for k in entry if k.startswith("worker.")):  # every rank's own is the mean that was saved, to the bit
                    assert torch.equal(r["loaded"]["parameters"][name][key]["values"], entry[key]["values"]), (name, key)
        start, saved = f"of_{world}", results[0]["saved"]
    assert any(k.startswith("worker.") for entry in saved["parameters"].values() for k in entry)
