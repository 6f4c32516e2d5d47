"""Runs a function, or a script, in W real processes joined by Gloo. Helpers of the tests in this folder; no tests here.

Each call gets fresh processes (forked from a server that has imported torch already: 0.1 s instead of 3) and a fresh FileStore.
Past its time limit a call kills its own children and fails. OMP_NUM_THREADS is 1 in the ranks.
"""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import io
import multiprocessing as mp
import multiprocessing.connection
import os
import pickle
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

QUIET = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "TORCH_CPP_LOG_LEVEL": "FATAL"}
_context = mp.get_context("forkserver")
_context.set_forkserver_preload(  # torch._dynamo: DDP imports it
    ["pytest", "torch", "torch.distributed", "torch.nn.parallel", "torch._dynamo", "torch_smoothquant", "ranks", "models"])


@contextlib.contextmanager
def _quiet_environment() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in QUIET}
    os.environ.update(QUIET)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


class RanksFailed(AssertionError):
    """A rank raised, died or ran past the limit; shows every rank's end."""


def join_group(store: str, rank: int, world: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world, timeout=datetime.timedelta(seconds=60))


def _main(function: Callable[..., Any], rank: int, world: int, store: str, args: tuple,
          pipe: multiprocessing.connection.Connection) -> None:
    error = value = None
    try:
        join_group(store, rank, world)
        value = function(rank, world, *args)
    except BaseException:
        error = traceback.format_exc()
    out = io.BytesIO()
    torch.save((value, error), out)  # not the pipe's pickler: torch would send handles to this process's memory
    pipe.send_bytes(out.getvalue())
    pipe.close()
    if error is None and dist.is_initialized():
        dist.destroy_process_group()


def run_ranks(function: Callable[..., Any], world: int, *args: Any, timeout: float = 60, may_die: Sequence[int] = ()) -> list[Any]:
    """[function(rank, world, *args) for every rank]; ranks in `may_die` that end without a result give None.

    `function` is defined at the top of a module. Raises RanksFailed if a rank raised, died, or was not gone `timeout` seconds after
    the start.
    """
    deadline = time.monotonic() + timeout
    with tempfile.TemporaryDirectory() as folder, _quiet_environment():
        processes, pipes = [], []
        for rank in range(world):
            receive, send = _context.Pipe(duplex=False)
            process = _context.Process(target=_main, args=(function, rank, world, f"{folder}/store", args, send), daemon=True)
            process.start()
            send.close()
            processes.append(process)
            pipes.append(receive)
        try:
            outcomes = [_outcome(pipe, deadline) for pipe in pipes]
            for process in processes:
                process.join(max(0.1, deadline - time.monotonic()))
            stuck = [rank for rank, process in enumerate(processes) if process.is_alive()]
        finally:
            for process in processes:
                process.kill()
                process.join()
    failed = [r for r, (_, error) in enumerate(outcomes) if error and not (r in may_die and error == "died")]
    if failed or stuck:
        ends = [f"rank {r}: {error or 'a result'}; exit code {processes[r].exitcode}" for r, (_, error) in enumerate(outcomes)]
        raise RanksFailed("\n".join([f"failed: {failed}, still alive at the limit: {stuck}", *ends]))
    return [value for value, _ in outcomes]


def _outcome(pipe: multiprocessing.connection.Connection, deadline: float) -> tuple[Any, str | None]:
    if not pipe.poll(max(0.0, deadline - time.monotonic())):
        return None, "no result within the limit"
    try:
        return torch.load(io.BytesIO(pipe.recv_bytes()), weights_only=False)
    except (EOFError, pickle.UnpicklingError):
        return None, "died"


@dataclass(frozen=True)
class Ended:
    code: int | None  # minus the signal, if one killed it
    seconds: float  # from the end of the program to the end of the process
    output: str


def _script(source: str, rank: int, world: int, store: str, output: str) -> None:
    with open(output, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    code = 0
    main = sys.modules["__main__"].__dict__
    try:
        join_group(store, rank, world)
        exec(f"import os, threading, time\nfrom models import *\nimport torch_smoothquant as tsq\nrank = {rank}\n{source}", main)
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    print("ended", time.monotonic(), flush=True)
    ctypes.pythonapi.Py_Exit(code)  # ends as an interpreter ends; multiprocessing alone would skip the finalisation


def run_scripts(source: str, world: int, timeout: float = 60) -> list[Ended]:
    """Runs a program in `world` processes that finalise the interpreter and run all destructors at their end.

    `rank`, `dist`, `torch`, `tsq` and what is in models.py are defined; the group is joined. Raises RanksFailed past the limit.
    """
    deadline = time.monotonic() + timeout
    with tempfile.TemporaryDirectory() as folder, _quiet_environment():
        outputs = [Path(folder, f"output{rank}") for rank in range(world)]
        processes = [_context.Process(target=_script, args=(source, rank, world, f"{folder}/store", str(output)), daemon=True)
                     for rank, output in enumerate(outputs)]
        for process in processes:
            process.start()
        ends: dict[int, Ended] = {}
        try:
            while len(ends) < world:
                for rank, process in enumerate(processes):
                    if rank not in ends and not process.is_alive():
                        text = outputs[rank].read_text()
                        ended = re.search(r"ended ([\d.]+)\n", text)
                        ends[rank] = Ended(process.exitcode, time.monotonic() - float(ended.group(1)) if ended else 0, text)
                if time.monotonic() > deadline:
                    raise RanksFailed("\n".join(f"rank {r}: {ends.get(r) or 'alive: ' + o.read_text()}" for r, o in enumerate(outputs)))
                time.sleep(0.02)
        finally:
            for process in processes:
                process.kill()
                process.join()
    return [ends[rank] for rank in range(world)]
