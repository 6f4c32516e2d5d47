"""What is run: mechanisms x compressors x optimizers, the most telling first. Imports nothing of torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

# Family: its rates, the one that every mechanism is tried with first.
FAMILIES = {
    "UniformStep": ("UniformStep(bits=1.0)", "UniformStep(bits=2.0)", "UniformStep(bits=0.5)"),
    "Quantizer": ("Quantizer(bits=4)", "Quantizer(bits=2)"),
    "TopK": ("TopK(ratio=0.05)", "TopK(ratio=0.01)"),
}
COLUMNS = ("UniformStep(bits=2.0)", "UniformStep(bits=1.0)", "UniformStep(bits=0.5)", "Quantizer(bits=4)", "Quantizer(bits=2)",
           "TopK(ratio=0.05)", "TopK(ratio=0.01)")
CHEAPER = {  # the level below, in AdaCGD's ladder
    "UniformStep(bits=2.0)": "UniformStep(bits=0.5)", "UniformStep(bits=1.0)": "UniformStep(bits=0.25)",
    "UniformStep(bits=0.5)": "UniformStep(bits=0.15)", "Quantizer(bits=4)": "Quantizer(bits=2)", "Quantizer(bits=2)": "Quantizer(bits=1)",
    "TopK(ratio=0.05)": "TopK(ratio=0.01)", "TopK(ratio=0.01)": "TopK(ratio=0.002)",
}
DENSE = "Direct(Identity())"
MOMENTUM_FIRST = "EF21(Identity(), momentum=0.1)"  # uncompressed, with the optimizer that momentum in the mechanism wants
LAZY = "LAG(zeta=1.0)"  # has no compressor


def _unbiased_partner(compressor: str) -> str:
    return compressor.replace("TopK", "RandK")  # the others have an unbiased form of their own


MECHANISMS: dict[str, Callable[[str], str]] = {
    "ErrorFeedback": lambda c: f"ErrorFeedback({c})",
    "ErrorFeedback, both directions": lambda c: f"Bidirectional(ErrorFeedback({c}), ErrorFeedback({c}))",
    "EF21, momentum 0.1": lambda c: f"EF21({c}, momentum=0.1)",
    "EF21": lambda c: f"EF21({c})",
    "Direct": lambda c: f"Direct({c})",
    "DIANA": lambda c: f"DIANA({c})",
    "MARINA, p 0.1": lambda c: f"MARINA({c}, p=0.1)",
    "CLAG, zeta 1": lambda c: f"CLAG({c}, zeta=1.0)",
    "AdaCGD, zeta 1": lambda c: f"AdaCGD([{CHEAPER[c]}, {c}], zeta=1.0)",
    "Ada3PC, Accurate 0.25": lambda c: f"Ada3PC([EF21({CHEAPER[c]}), EF21({c})], [Accurate(zeta=0.25)])",
    "ThreePC v1": lambda c: f"ThreePC({c}, variant=1)",
    "ThreePC v2": lambda c: f"ThreePC({c}, second={_unbiased_partner(c)})",
    "ThreePC v3, CLAG": lambda c: f"ThreePC({c}, variant=3, second=CLAG({c}, zeta=1.0))",
    "ThreePC v4": lambda c: f"ThreePC({c}, variant=4, second={c})",
    "ThreePC v5, p 0.1": lambda c: f"ThreePC({c}, variant=5, p=0.1)",
}
TELLING = ("ErrorFeedback", "ErrorFeedback, both directions", "EF21, momentum 0.1", "Direct")


@dataclass(frozen=True)
class Case:
    """One run. `mechanism` and `compressor` name its cell of the table."""

    optimizer: str
    mechanism: str
    compressor: str
    spec: str
    seed: int

    @property
    def key(self) -> str:
        return f"{self.optimizer} seed {self.seed} {self.spec}"


def _cells() -> list[tuple[str, str]]:
    """Mechanism and compressor of every cell, in the order in which they are run."""
    first = [(m, rates[0]) for m in MECHANISMS for rates in FAMILIES.values()]
    telling = [(m, c) for m in TELLING for rates in FAMILIES.values() for c in rates[1:]]
    rest = [(m, c) for m in MECHANISMS if m not in TELLING for rates in FAMILIES.values() for c in rates[1:]]
    return first + telling + rest


def cases(optimizers: list[str], seeds: list[int]) -> list[Case]:
    out: list[Case] = []
    for seed in seeds:
        out += [Case(o, "", "", spec, seed) for spec in (DENSE, MOMENTUM_FIRST, LAZY) for o in optimizers]
        out += [Case(o, m, c, MECHANISMS[m](c), seed) for m, c in _cells() for o in optimizers]
    return out
