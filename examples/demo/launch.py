"""The processes of one method: two ranks over Gloo on loopback, watched, never left behind."""

from __future__ import annotations

import gc
import multiprocessing
import os
import queue
import signal
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from .results import MethodResult
from .settings import WORLD_SIZE, Method, Settings

Messages = Any  # multiprocessing.Queue of ("step", ...), ("result", MethodResult)
Progress = Callable[[int, float, float], None]


class MethodFailed(RuntimeError):
    """A rank raised, died or took too long; the message says which."""


def rank_main(rank: int, settings: Settings, method: Method, store: str, messages: Messages) -> None:
    """Body of a rank's process; rank 0 reports progress and the result. An exception's traceback goes to stderr."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the launcher's affair: it ends the ranks
    import torch
    import torch.distributed as dist

    from .train import train_method

    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()

    def progress(step: int, loss: float, bytes_sent: float) -> None:
        if parent is not None and not parent.is_alive():
            os._exit(1)  # the launcher was killed: do not train on unseen
        if rank == 0:
            messages.put(("step", step, loss, bytes_sent))

    dist.init_process_group(
        "gloo", store=dist.FileStore(store, WORLD_SIZE), rank=rank, world_size=WORLD_SIZE,
        timeout=timedelta(seconds=settings.collective_timeout_s),
    )
    result = train_method(settings, method, progress)
    if rank == 0:
        messages.put(("result", result))
    gc.collect()  # DDP sits in reference cycles: free it, and the threads of its group, while Python still runs
    dist.barrier()
    dist.destroy_process_group()


def run_method(settings: Settings, method: Method, progress: Progress) -> MethodResult:
    """Start the ranks, relay their progress, return rank 0's result.

    Raises MethodFailed, with every process ended, if a rank fails or `settings.method_timeout_s` runs out.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    context = multiprocessing.get_context("forkserver")  # torch is imported once, and no thread is ever forked
    context.set_forkserver_preload([f"{__package__}.train", "torch._dynamo"])  # the latter: imported by optimizers
    messages = context.Queue()
    with tempfile.TemporaryDirectory(prefix="tsq-demo-") as folder:
        store = str(Path(folder) / "store")
        processes: list[BaseProcess] = [
            context.Process(
                target=rank_main, args=(rank, settings, method, store, messages), daemon=True, name=f"rank {rank}"
            )
            for rank in range(WORLD_SIZE)
        ]
        try:
            for process in processes:
                process.start()
            return _watch(processes, messages, time.monotonic() + settings.method_timeout_s, progress)
        finally:
            _end(processes)


def _watch(processes: list[BaseProcess], messages: Messages, deadline: float, progress: Progress) -> MethodResult:
    """Relay messages until every rank has left with exit code 0; anything else raises MethodFailed."""
    result: MethodResult | None = None
    while time.monotonic() < deadline:
        ended = all(process.exitcode is not None for process in processes)  # before the last look at the queue
        try:
            message = messages.get(timeout=0.2)
        except queue.Empty:
            message = None
        if message is not None:
            if message[0] == "step":
                progress(*message[1:])
            else:
                result = message[1]
            continue
        died = [f"{p.name} (exit code {p.exitcode})" for p in processes if p.exitcode not in (None, 0)]
        if died:
            raise MethodFailed(f"{', '.join(died)} failed; what it said stands above")
        if ended:
            if result is None:
                raise MethodFailed("the ranks ended without a result")
            return result
    raise MethodFailed("timed out; the ranks were ended")


def _end(processes: list[BaseProcess]) -> None:
    """Terminate, then kill, whatever still runs, and reap it."""
    for process in processes:
        if process.is_alive():
            process.terminate()
    for process in processes:
        if process.pid is None:
            continue  # never started
        process.join(timeout=3)
        if process.is_alive():
            process.kill()
            process.join(timeout=3)
