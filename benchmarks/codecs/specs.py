"""What is measured: the one list. A compressor that is not here is taken with its first spec in tests/specs.txt."""

from __future__ import annotations

from pathlib import Path

import torch_smoothquant as tsq

# spec, when to use it
CHOSEN = [
    ("Identity()", "the wire is no bottleneck"),
    ("Natural()", "elements of very different size; no scale, no block"),
    ("Quantizer(bits=8)", "as good as uncompressed, a quarter of the bytes"),
    ("Quantizer(bits=6)", "unbiased and hardly any noise"),
    ("Quantizer(bits=4)", "the default: an eighth of the bytes"),
    ("Quantizer(bits=4, levels='unbiased')", "4 bits without a state, or where a mean over workers takes the noise out"),
    ("Quantizer(bits=3)", "with error feedback"),
    ("Quantizer(bits=2)", "with error feedback; slow links"),
    ("Quantizer(bits=2.0)", "where parts of a parameter differ in size; an average that is planned"),
    ("Quantizer(bits=1)", "with error feedback; very slow links"),
    ("Sign()", "as one bit, encoded faster"),
    ("Ternary()", "unbiased at 2 bits; noisy"),
    ("UniformStep(bits=2.0)", "2 bits on average: under Adam"),
    ("UniformStep(bits=1.0)", "the strongest for its bytes: error feedback with SGD"),
    ("UniformStep(bits=0.5)", "slow links, error feedback with SGD"),
    ("UniformStep(bits=0.2)", "the slowest links, error feedback with SGD"),
    ("RandK(ratio=0.01)", "unbiased, no indices on the wire; for theory and MARINA"),
    ("PermK()", "workers with equal gradients: their mean is exact"),
    ("Bernoulli(p=0.01)", "unbiased, independent coordinates"),
    ("StochasticSparsifier(budget=0.01)", "unbiased with the least variance for its number of entries"),
    ("SparseSign(ratio=0.01)", "one bit per kept entry beside its index"),
    ("Dithering(levels=16)", "QSGD; the papers' baseline"),
    ("NaturalDithering(levels=8)", "levels are powers of two"),
    ("VaryingDithering(ratio=0.1)", "unbiased at a budget of non-zeros; convex problems of known smoothness"),
    ("BlockDithering(blocks=256, ratio=0.1)", "the same with a norm per block"),
    ("SmoothBernoulli(ratio=0.01)", "the papers' smoothness-aware sparsifier; here all probabilities are equal"),
    ("Cast(dtype='bf16')", "half the bytes, no state"),
    ("Cast(dtype='fp8')", "a quarter of the bytes, no state"),
    ("TopK(ratio=0.1)", "few elements carry most of the gradient"),
    ("TopK(ratio=0.01)", "the same on slow links, with error feedback"),
    ("TopK(ratio=0.001)", "the slowest links, with error feedback"),
]

# Codecs that use tsq.set_num_threads.
THREADED = {"Bernoulli", "Cast", "Dithering", "Natural", "NaturalDithering", "Quantizer", "Sign", "SparseSign", "StochasticSparsifier",
            "Ternary", "TopK", "UniformStep"}


def name_of(spec: str) -> str:
    return spec.partition("(")[0]


def cases() -> list[tuple[str, str]]:
    """Spec and advice of all that is measured, every compressor of the library among them."""
    listed = (Path(__file__).resolve().parents[2] / "tests" / "specs.txt").read_text().split("\n")[:-1]
    known = {name_of(spec) for spec, _ in CHOSEN}
    others = {name_of(spec): spec for spec in reversed(listed) if name_of(spec) not in known}
    public = {name for name, c in vars(tsq).items() if isinstance(c, type) and issubclass(c, tsq.Compressor)} - {"Compressor"}
    missing = public - known - set(others)
    if missing:
        raise SystemExit(f"no spec of {', '.join(sorted(missing))} in benchmarks/codecs/specs.py or tests/specs.txt")
    return CHOSEN + [(spec, "") for _, spec in sorted(others.items())]
