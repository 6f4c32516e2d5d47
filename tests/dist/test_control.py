"""Steering and watching: set_enabled, set_loss_scale, stats; the Python-callable hook; the data path without Python's lock."""

from __future__ import annotations

import copy
import ctypes
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from models import FOUR, TINY, flat, grads, loss_of, make_model, sgd, train, worker_residuals
from ranks import run_ranks
from torch.nn.parallel import DistributedDataParallel as DDP

import torch_smoothquant as tsq
from torch_smoothquant import reference

EF2 = "ErrorFeedback(Quantizer(bits=2))"
each_exchange = pytest.mark.parametrize("exchange", ["all_gather", "sharded"])


# ------------------------------------------------------------------ set_enabled


def switching(rank: int, world: int, exchange: str) -> torch.Tensor:
    ddp = DDP(make_model(), bucket_cap_mb=TINY)
    hook = tsq.attach(ddp, EF2, exchange=exchange)
    optimizer = sgd(ddp)
    train(ddp, optimizer, rank, range(3))
    before = hook.state_dict()
    hook.set_enabled(False)
    assert hook.stats()["enabled"] is False
    plain = DDP(copy.deepcopy(ddp.module), bucket_cap_mb=TINY)
    dense = hook.stats()["dense_calls"]
    train(plain, None, rank, [3])
    train(ddp, None, rank, [3])
    assert all(torch.equal(a, b) for a, b in zip(grads(plain).values(), grads(ddp).values(), strict=True))
    assert hook.stats()["dense_calls"] == dense + 6
    after = hook.state_dict()
    assert all(torch.equal(a, b) for a, b in zip(worker_residuals(before).values(), worker_residuals(after).values(), strict=True))
    assert after["parameters"]["2.weight"]["steps"] == before["parameters"]["2.weight"]["steps"] == 3
    hook.set_enabled(True)
    hook.set_enabled(True)
    train(ddp, optimizer, rank, range(4, 7))
    assert hook.stats()["dense_calls"] == dense + 6 and hook.stats()["enabled"] is True
    return flat(ddp)


@each_exchange
def test_set_enabled(exchange):
    first, other = run_ranks(switching, 2, exchange)
    assert torch.equal(first, other)


def disagreeing(rank: int, world: int) -> str:
    ddp = DDP(make_model())
    hook = tsq.attach(ddp, FOUR)
    train(ddp, None, rank, range(2))
    with pytest.raises(ValueError) as caught:
        hook.set_enabled(rank == 0)
    assert hook.stats()["enabled"] is True
    for wrong in (1, None, "False"):
        with pytest.raises(TypeError, match="enabled: expected a bool"):
            hook.set_enabled(wrong)
    train(ddp, None, rank, [2])
    assert hook.stats()["dense_calls"] == 0
    return str(caught.value)


def test_set_enabled_by_ranks_that_disagree():
    for text in run_ranks(disagreeing, 3):
        assert "set_enabled: the ranks differ: rank 0 has enabled = True; rank 1 has enabled = False" in text


# ------------------------------------------------------------------ set_loss_scale


def scaling(rank: int, world: int, exchange: str) -> None:
    ddp = DDP(make_model())
    hook = tsq.attach(ddp, EF2, exchange=exchange)
    train(ddp, None, rank, range(2))
    before = hook.state_dict()
    hook.set_loss_scale(1024.0)  # takes note
    for new, factor in ((2048.0, 2.0), (2048, 1.0), (512.0, 0.25)):
        old = hook.state_dict()
        hook.set_loss_scale(new)
        for name, entry in hook.state_dict()["parameters"].items():
            for key in (k for k, v in entry.items() if isinstance(v, dict)):
                assert torch.equal(entry[key]["values"], old["parameters"][name][key]["values"] * factor)
    for bad in (0, -1.0, float("nan"), float("inf"), None, "2", True):
        with pytest.raises(ValueError, match="scale: expected"):
            hook.set_loss_scale(bad)
    assert hook.state_dict()["loss_scale"] == 512
    assert torch.equal(worker_residuals(hook.state_dict())["2.weight"], worker_residuals(before)["2.weight"] / 2)


@each_exchange
def test_set_loss_scale_rescales_residuals(exchange):
    run_ranks(scaling, 2, exchange)


# ------------------------------------------------------------------ stats


def counting(rank: int, world: int, exchange: str, bits: int) -> tuple[dict[str, Any], dict[str, Any], int]:
    ddp = DDP(make_model())
    hook = tsq.attach(ddp, f"ErrorFeedback(Quantizer(bits={bits}))", exchange=exchange)
    before = hook.stats()
    train(ddp, None, rank, range(5))
    after = hook.stats()
    state = hook.state_dict()["parameters"].values()
    held = sum(v["values"].numel() * v["values"].element_size() for e in state for k, v in e.items() if isinstance(v, dict))
    return before, after, held


SEAL = 8  # docs/wire_format.md, "In transport"
SIZES = {"0.weight": 2560, "0.bias": 64, "2.weight": 4096, "2.bias": 64, "4.weight": 512, "4.bias": 8}


def part_bytes(name: str, numel: int, bits: int) -> int:
    """docs/wire_format.md: a section with its table entry; none for an empty part."""
    return numel and 24 + (reference.quantizer.payload_bytes(numel, bits, 256) if SIZES[name] >= 2048 else 4 * numel)


def owned(world: int) -> list[dict[str, int]]:
    out: list[dict[str, int]] = [{} for _ in range(world)]
    for number, (name, numel) in enumerate(SIZES.items()):
        granules = -(-numel // 256)
        for rank in range(world):
            turn = (rank - number) % world
            begin, end = (min(numel, granules * i // world * 256) for i in (turn, turn + 1))
            out[rank][name] = end - begin
    return out


@pytest.mark.parametrize("world", (2, 3))
@pytest.mark.parametrize("bits", (1, 4))
def test_bytes_are_exactly_those_of_the_documents(world, bits):
    dense = 4 * sum(SIZES.values())
    message = 32 + sum(part_bytes(name, numel, bits) for name, numel in SIZES.items()) + SEAL
    for before, after, held in run_ranks(counting, world, "all_gather", bits):
        new = {key: after[key] - before[key] for key in after if isinstance(after[key], int) and not isinstance(after[key], bool)}
        assert new["calls"] == 5 and new["dense_calls"] == 0 and new["collectives"] == 5
        assert new["wire_bytes"] == 5 * (world - 1) * message and new["handed_bytes"] == 5 * message
        assert new["dense_bytes"] == 5 * (2 * dense * (world - 1) // world)
        assert after["ratio"] == after["dense_bytes"] / after["wire_bytes"]
        assert after["state_bytes"] == held == 4 * (2560 + 4096)
        assert after["world_size"] == world and after["parameters"] == 6 and after["exempt_parameters"] == 4
        assert after["seconds"].keys() == {"encode", "exchange", "decode"} and all(s > 0 for s in after["seconds"].values())
    parts = [32 + sum(part_bytes(name, numel, bits) for name, numel in shard.items()) + SEAL for shard in owned(world)]
    for rank, (before, after, held) in enumerate(run_ranks(counting, world, "sharded", bits)):
        up_to_others, down = sum(parts) - parts[rank], max(parts)
        assert after["collectives"] - before["collectives"] == 10
        assert after["wire_bytes"] - before["wire_bytes"] == 5 * (up_to_others + (world - 1) * down)
        assert after["handed_bytes"] - before["handed_bytes"] == 5 * (sum(parts) + down)
        own = sum(n for name, n in owned(world)[rank].items() if SIZES[name] >= 2048)
        assert after["state_bytes"] == held == 4 * (2560 + 4096 + own)


def test_stats_begin_at_zero():
    """attach's own comparison of the ranks is not traffic of the training."""
    for before, _, _ in run_ranks(counting, 2, "all_gather", 4):
        assert before["calls"] == before["wire_bytes"] == before["handed_bytes"] == before["collectives"] == 0


# ------------------------------------------------------------------ the Python-callable hook


def python_hook(rank: int, world: int, how: str, exchange: str) -> tuple[torch.Tensor, dict[str, Any]]:
    ddp = DDP(make_model(), bucket_cap_mb=TINY)
    if how == "attach":
        hook = tsq.attach(ddp, EF2, exchange=exchange)
    else:
        hook = tsq.prepare(ddp, EF2, exchange=exchange)
        ddp.register_comm_hook(hook, tsq.comm_hook)
    optimizer = sgd(ddp)
    train(ddp, optimizer, rank, range(10))
    train(ddp, None, rank, [10])
    return torch.cat([flat(ddp), *[g.flatten().double() for g in grads(ddp).values()]]), hook.stats()


@each_exchange
def test_comm_hook_is_attach(exchange):
    expected = run_ranks(python_hook, 2, "attach", exchange)
    found = run_ranks(python_hook, 2, "comm_hook", exchange)
    assert all(torch.equal(expected[0][0], values) for values, _ in expected + found)
    assert {k: v for k, v in found[0][1].items() if k not in ("seconds", "buffer_bytes")} == {
        k: v for k, v in expected[0][1].items() if k not in ("seconds", "buffer_bytes")}


def composed(rank: int, world: int) -> bool:
    plain, half = DDP(make_model(), bucket_cap_mb=TINY), DDP(make_model(), bucket_cap_mb=TINY)
    tsq.attach(plain, EF2)
    threads = set()

    def halved(state, bucket):  # DDP refuses annotations that are text
        def half_of(future: torch.futures.Future[torch.Tensor]) -> torch.Tensor:
            threads.add(threading.get_ident())
            return future.value().mul_(0.5)

        return tsq.comm_hook(state, bucket).then(half_of)

    half.register_comm_hook(tsq.prepare(half, EF2), halved)
    for step in range(4):
        train(plain, None, rank, [step])
        train(half, None, rank, [step])
        assert all(torch.equal(a * 0.5, b) for a, b in zip(grads(plain).values(), grads(half).values(), strict=True))
    return len(threads) > 0


def test_comm_hook_composes():
    assert run_ranks(composed, 2) == [True, True]


def failing_callback(rank: int, world: int) -> None:
    ddp = DDP(make_model())

    def fails(state, bucket):
        def callback(future: torch.futures.Future[torch.Tensor]) -> torch.Tensor:
            raise KeyError("user code")

        return tsq.comm_hook(state, bucket).then(callback)

    hook = tsq.prepare(ddp, EF2)
    ddp.register_comm_hook(hook, fails)
    with pytest.raises(RuntimeError, match="user code"):
        train(ddp, None, rank, [0])
    hook.close()


def test_an_error_in_a_callback_comes_out_of_backward():
    run_ranks(failing_callback, 2)


# ------------------------------------------------------------------ Python's lock


def while_holding_the_lock(rank: int, world: int, how: str, folder: Path) -> dict[str, Any] | None:
    """Rank 0 holds the GIL from when its buckets are queued and wait for rank 1 until long after rank 1 has sent everything."""
    ddp = DDP(make_model(), bucket_cap_mb=TINY)
    if how == "attach":
        hook = tsq.attach(ddp, FOUR)
    else:
        hook = tsq.prepare(ddp, FOUR)
        ddp.register_comm_hook(hook, lambda state, bucket: tsq.comm_hook(state, bucket).then(lambda future: future.value()))
    train(ddp, None, rank, range(3))
    go = folder / "go"
    if rank == 1:
        while not go.exists():
            time.sleep(0.005)
        loss_of(ddp, rank, 3).backward()
        return None
    loss, ended, accumulated = loss_of(ddp, rank, 3), threading.Event(), []
    for p in ddp.parameters():
        p.register_post_accumulate_grad_hook(accumulated.append)

    def backward() -> None:
        loss.backward()
        ended.set()

    start = hook.stats()["calls"]
    thread = threading.Thread(target=backward)
    sleep = ctypes.PyDLL(None).usleep  # PyDLL: calls without releasing the lock
    stats = hook._core.stats  # C++, keeps the lock
    thread.start()
    while hook.stats()["calls"] == start or len(accumulated) < 6:  # autograd itself needs the lock, to free what Python made
        time.sleep(0.001)
    time.sleep(0.3)
    sys.setswitchinterval(1000)  # nobody may ask for the lock while it is held
    go.touch()
    sleep(700_000)
    held = stats()
    ended_meanwhile = ended.is_set()
    sys.setswitchinterval(0.005)
    thread.join()
    return {"held": held, "after": stats(), "start": start, "ended_meanwhile": ended_meanwhile}


def test_the_data_path_does_not_need_python_s_lock(tmp_path):
    r = run_ranks(while_holding_the_lock, 2, "attach", tmp_path)[0]
    assert not r["ended_meanwhile"]  # the lock was held: Python could not go on
    assert r["held"]["calls"] == r["after"]["calls"] == r["start"] + 6
    assert r["held"] == r["after"]  # nothing was left to do: all six buckets were sent, received, decoded
    assert r["held"]["seconds"]["decode"] > 0


def test_the_test_of_the_lock_would_notice(tmp_path):
    """A callback in Python does need the lock, once per bucket."""
    r = run_ranks(while_holding_the_lock, 2, "callback", tmp_path)[0]
    assert not r["ended_meanwhile"]
    assert r["held"]["calls"] < r["after"]["calls"] == r["start"] + 6
