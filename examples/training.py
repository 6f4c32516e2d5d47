"""What charlm_ddp.py and mnist_ddp.py share: command line, start, checkpoint, last words. No training loop in here."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import torch_smoothquant as tsq


@dataclass
class Run:
    """One rank's part of a run. `hook` is None with --plain; `done` counts the steps behind us, those of a checkpoint included."""

    ddp: DistributedDataParallel
    hook: tsq.Hook | None
    optimizer: torch.optim.Optimizer
    done: int = 0


def arguments(description: str, steps: int, arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec", help="what workers send, e.g. 'ErrorFeedback(UniformStep(bits=1.0))' (default: tsq.attach's)")
    parser.add_argument("--down", help="what comes back; makes the exchange sharded (default: as --spec)")
    parser.add_argument("--plain", action="store_true", help="plain DDP, for comparison")
    parser.add_argument("--optimizer", choices=("sgd", "adam"), default="adam")
    parser.add_argument("--steps", type=int, default=steps, help="in all, those before a checkpoint included (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", type=Path, help="resume from this file if it is there; write it at the end")
    args = parser.parse_args(arguments)
    if args.plain and (args.spec or args.down):
        parser.error("--plain: expected no --spec and no --down beside it")
    return args


def start(module: nn.Module, args: argparse.Namespace, learning_rate: float) -> Run:
    """Wrap, attach, make the optimizer, and load the checkpoint if there is one. Same weights on every rank: DDP sees to it."""
    ddp = DistributedDataParallel(module)
    hook = None if args.plain else tsq.attach(ddp, args.spec, args.down, seed=args.seed)
    if args.optimizer == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(ddp.parameters(), lr=learning_rate, momentum=0.9)
    else:  # where the mechanism has the momentum, Adam does not smooth again
        betas = (0.0, 0.999) if "momentum=" in (args.spec or "") else (0.9, 0.999)
        optimizer = torch.optim.Adam(ddp.parameters(), lr=learning_rate, betas=betas)
    run = Run(ddp, hook, optimizer)
    if args.checkpoint and args.checkpoint.exists():
        saved = torch.load(args.checkpoint, weights_only=True)
        module.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        run.done = saved["done"]
        if hook is not None:
            hook.load_state_dict(saved["hook"])
    return run


def finish(run: Run, args: argparse.Namespace) -> None:
    """Write the checkpoint, say what travelled, leave."""
    # mode="mean" is collective and fits any number of ranks; mode="rank", one file per rank, would resume bit for bit.
    state = run.hook.state_dict(mode="mean") if run.hook is not None and args.checkpoint else None
    if dist.get_rank() == 0:
        if args.checkpoint:
            draft = args.checkpoint.with_suffix(".part")
            torch.save({"model": run.ddp.module.state_dict(), "optimizer": run.optimizer.state_dict(), "done": run.done,
                        "hook": state}, draft)
            os.replace(draft, args.checkpoint)
        print(bytes_line(run))
        if run.hook is not None:
            print(run.hook.log_line())
    if run.hook is not None:
        run.hook.close()
    dist.destroy_process_group()


def bytes_line(run: Run) -> str:
    """What this rank sent in this process. Up: its own gradients; down: averages of what it owns (none unless sharded)."""
    if run.hook is None:
        return "plain DDP: 4 bytes per element up and down"
    stats, parameters = run.hook.stats(), run.hook.stats_by_parameter().values()
    up, down = (sum(entry[key] for entry in parameters) for key in ("up_bytes", "down_bytes"))
    return f"bytes: {stats['wire_bytes']:,} sent, plain DDP {stats['dense_bytes']:,}; payload made: {up:,} up, {down:,} down"
