"""Dead and hanging peers, errors in user code, destruction at bad moments: an exception in time, never a hang."""

from __future__ import annotations

import os
import re
import signal
import time
from typing import Any

import pytest
import torch
from models import FOUR, TINY, loss_of, make_model, train
from ranks import run_ranks, run_scripts
from torch.nn.parallel import DistributedDataParallel as DDP

import torch_smoothquant as tsq

each_exchange = pytest.mark.parametrize("exchange", ["all_gather", "sharded", "dense"])
LIMIT = 2.0  # timeout= of the hook in these tests


def failing_backward(ddp: DDP, rank: int, step: int) -> tuple[float, str]:
    start = time.monotonic()
    with pytest.raises(RuntimeError) as caught:
        train(ddp, None, rank, [step])
    return time.monotonic() - start, str(caught.value)


def survivor(ddp: DDP, hook: tsq.Hook, rank: int) -> dict[str, Any]:
    """Three failing backwards, then the end of the hook: how long each took and what it said."""
    first, *later = [failing_backward(ddp, rank, step) for step in (2, 3, 4)]
    start = time.monotonic()
    state = hook.state_dict()
    finite = all(v["values"].isfinite().all() for e in state["parameters"].values() for k, v in e.items() if isinstance(v, dict))
    error = hook.stats()["error"]
    hook.close()
    hook.close()
    return {"first": first, "later": later, "finite": finite, "error": error, "closing": time.monotonic() - start}


def check_survivor(r: dict[str, Any], least: float, most: float) -> None:
    seconds, text = r["first"]
    assert least <= seconds < most, r
    assert "torch_smoothquant" in text and r["error"] and r["error"].split("\n")[0] in text
    for seconds, text in r["later"]:
        assert seconds < 1 and "failed earlier" in text and r["error"].split("\n")[0] in text
        assert "new DistributedDataParallel" in text
    assert r["finite"] and r["closing"] < 2


def killed(rank: int, world: int, exchange: str) -> dict[str, Any] | None:
    ddp = DDP(make_model(), bucket_cap_mb=TINY)
    hook = tsq.attach(ddp, FOUR, exchange=exchange, timeout=LIMIT)
    train(ddp, None, rank, range(2))
    if rank == world - 1:
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)
    return survivor(ddp, hook, rank)


@each_exchange
@pytest.mark.parametrize("world", (2, 3))
def test_peer_killed(exchange, world):
    *survivors, dead = run_ranks(killed, world, exchange, may_die=[world - 1], timeout=30)
    assert dead is None
    for r in survivors:
        check_survivor(r, 0, 2 * LIMIT)


def asleep(rank: int, world: int, exchange: str) -> dict[str, Any] | None:
    ddp = DDP(make_model(), bucket_cap_mb=TINY)
    hook = tsq.attach(ddp, FOUR, exchange=exchange, timeout=LIMIT)
    train(ddp, None, rank, range(2))
    if rank == world - 1:
        time.sleep(2.5 * LIMIT)
        return None
    return survivor(ddp, hook, rank)


@pytest.mark.parametrize("exchange", ["all_gather", "sharded"])
def test_peer_asleep(exchange):
    *survivors, _ = run_ranks(asleep, 3, exchange, timeout=40)
    for r in survivors:  # one of them may hear of the other's failure instead of timing out itself
        check_survivor(r, 0.9 * LIMIT, LIMIT + 2)


def asleep_at_attach(rank: int, world: int) -> tuple[float, str]:
    ddp = DDP(make_model())
    if rank == 1:
        time.sleep(2 * LIMIT)
        return 0, ""
    start = time.monotonic()
    with pytest.raises(RuntimeError) as caught:
        tsq.attach(ddp, timeout=LIMIT)
    seconds = time.monotonic() - start
    train(ddp.module, None, rank, [0])
    return seconds, str(caught.value)


def test_peer_that_never_attaches():
    (seconds, says), _ = run_ranks(asleep_at_attach, 2, timeout=40)
    assert seconds < LIMIT + 3
    assert says.startswith(f"attach: expected all 2 ranks of the DDP module's group within {LIMIT:g} s")


def changes_after_a_failure(rank: int, world: int) -> None:
    ddp = DDP(make_model())
    hook = tsq.attach(ddp, timeout=1)
    train(ddp, None, rank, [0])
    if rank == 1:
        time.sleep(2.5)
        return
    failing_backward(ddp, rank, 1)
    start = time.monotonic()
    with pytest.raises(RuntimeError):
        hook.set_enabled(False)
    assert time.monotonic() - start < 1.5 and hook.stats()["enabled"] is True
    failing_backward(ddp, rank, 2)


def test_set_enabled_after_a_failure_raises_too():
    run_ranks(changes_after_a_failure, 2)


def in_user_code(rank: int, world: int, exchange: str) -> str:
    ddp = DDP(make_model(), bucket_cap_mb=TINY)
    hook = tsq.attach(ddp, FOUR, exchange=exchange, timeout=LIMIT)
    train(ddp, None, rank, range(2))

    def fails(grad: torch.Tensor) -> None:
        if rank == 0:
            raise KeyError("user code")

    handle = ddp.module.get_parameter("2.weight").register_hook(fails)
    if rank == 0:
        with pytest.raises(KeyError, match="user code"):
            loss_of(ddp, rank, 2).backward()
    else:
        failing_backward(ddp, rank, 2)  # its peer's buckets are missing
    handle.remove()
    start = time.monotonic()
    failing_backward(ddp, rank, 3)
    hook.close()
    del ddp, hook
    assert time.monotonic() - start < 2 * LIMIT + 1
    return "alive"


@pytest.mark.parametrize("exchange", ["all_gather", "dense"])
def test_user_code_raises_in_the_middle_of_a_backward(exchange):
    assert run_ranks(in_user_code, 2, exchange) == ["alive", "alive"]


def closed(rank: int, world: int) -> str:
    ddp = DDP(make_model())
    hook = tsq.attach(ddp)
    train(ddp, None, rank, range(2))
    hook.close()
    hook.close()
    _, text = failing_backward(ddp, rank, 2)
    for call in (hook.state_dict, lambda: hook.set_enabled(False), lambda: (hook.set_loss_scale(1), hook.set_loss_scale(2))):
        with pytest.raises(RuntimeError, match="closed"):
            call()
    assert hook.stats()["calls"] == 2 and hook.stats()["error"] == ""
    return text


def test_close_twice_then_backward():
    for text in run_ranks(closed, 2):
        assert "torch_smoothquant: the hook is closed" in text


# ------------------------------------------------------------------ how a program ends


ATTACHED = f"ddp = DDP(make_model(), bucket_cap_mb={TINY})\nhook = tsq.attach(ddp, FOUR, timeout=1.5)\ntrain(ddp, None, rank, range(3))\n"
QUEUE = """
def backward():
    try: loss_of(ddp, rank, 5).backward()
    except Exception: pass
if rank == 1: time.sleep(2.5)
else:  # buckets that wait for rank 1
    calls = hook.stats()['calls']
    threading.Thread(target=backward, daemon=True).start()
    while hook.stats()['calls'] == calls: time.sleep(0.01)
    """


@pytest.mark.parametrize(("source", "code"), [
    ("pass", 0), ("dist.destroy_process_group()", 0), ("dist.destroy_process_group(); hook.close()", 0),
    ("hook.close(); dist.destroy_process_group()", 0), ("del ddp", 0), ("del hook, ddp; import gc; gc.collect()", 0),
    ("raise SystemExit(7)", 7), ("raise KeyError('user code')", 1),
    (QUEUE + "pass", 0), (QUEUE + "hook.close()", 0), (QUEUE + "del hook, ddp, backward", 0),
    (QUEUE + "dist.destroy_process_group()", 0), (QUEUE + "raise SystemExit(7)", 7),
], ids=["nothing", "destroy", "destroy, close", "close, destroy", "del ddp", "del both", "exit 7", "raise", "queued", "queued, close",
        "queued, del", "queued, destroy", "queued, exit 7"])
def test_a_program_ends(source, code):
    """No shutdown call is needed, none does harm, queued buckets hold the end up for their timeout at most."""
    ends = run_scripts(ATTACHED + source, 2, timeout=30)
    assert ends[0].code == code, ends[0].output
    assert ends[0].seconds < 3 * LIMIT
    if not source.startswith(QUEUE):
        assert ends[1].code == code, ends[1].output
    assert not re.search(r"terminate called|Segmentation|Fatal Python|core dumped", ends[0].output + ends[1].output)


def test_a_program_ends_after_a_peer_was_killed():
    ends = run_scripts(ATTACHED + """
if rank == 1: os.kill(os.getpid(), 9)
try: train(ddp, None, rank, [3])
except RuntimeError as error: print('raised', error, flush=True)
""", 2)
    assert ends[1].code == -9
    assert ends[0].code == 0 and "raised" in ends[0].output and ends[0].seconds < 5, ends[0]


def test_an_unhandled_failure_ends_the_program_with_its_message():
    ends = run_scripts(ATTACHED + "if rank == 1: os.kill(os.getpid(), 9)\ntrain(ddp, None, rank, [3])\n", 2)
    assert ends[0].code == 1 and "torch_smoothquant: averaging a bucket failed" in ends[0].output and ends[0].seconds < 5, ends[0]
