"""The processes of a benchmark: four ranks that run the cases one after another."""

from __future__ import annotations

import multiprocessing
import tempfile
from pathlib import Path

from .worker import WORLD_SIZE, Case, Outcome, rank_main


def measure(cases: list[Case]) -> list[Outcome]:
    """One Outcome a case, each printed as it comes."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        ranks = [context.Process(target=rank_main, args=(rank, str(Path(folder, "store")), cases, results), daemon=True)
                 for rank in range(WORLD_SIZE)]
        for process in ranks:
            process.start()
        outcomes = []
        for case in cases:
            outcomes.append(results.get())
            print(f"{case.optimizer} seed {case.seed} {case.spec} {case.smoothness}: loss {outcomes[-1].loss:.4f}, "
                  f"{outcomes[-1].bits:.2f} bits ({outcomes[-1].payload_bits:.2f} of payload), {outcomes[-1].seconds:.0f} s", flush=True)
        for process in ranks:
            process.join()
    return outcomes
