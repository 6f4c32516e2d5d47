"""torch_smoothquant/reference without the compiled extension: the module is loaded by its path."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import torch

ROOT = Path(__file__).resolve().parents[2]
_package = ModuleType("torch_smoothquant_reference")  # the folder as a package: not the extension
_package.__path__ = [str(ROOT / "torch_smoothquant")]
sys.modules[_package.__name__] = _package
reference = importlib.import_module(f"{_package.__name__}.reference")


def gaussian(numel: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(numel, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def quantized(x: torch.Tensor, bits: int = 4, block: int = 256, levels: str = "unbiased", **more) -> torch.Tensor:
    """Payload for x with an all-zero key unless told otherwise."""
    arguments = {"rounding": None, "seed": 0, "step": 0, "rank": 0, **more}
    return reference.quantizer.quantize(x, bits, block, levels, **arguments)
