"""Gradient compression for PyTorch data-parallel training over links that are slower than the compute.

    hook = torch_smoothquant.attach(ddp)

replaces DDP's all-reduce by a C++ communication hook. See README.md; names and meanings: docs/.
"""

from __future__ import annotations

import torch
import torch.distributed  # loads the libraries that our extension is linked against

__version__ = "0.1.0"


def _check_build(built_for: str, running: str) -> None:
    if built_for.split(".")[:2] != running.split("+")[0].split(".")[:2]:
        raise ImportError(f"torch_smoothquant {__version__} was built for torch {'.'.join(built_for.split('.')[:2])} and cannot run "
                          f"with torch {running}: reinstall it with pip install --no-build-isolation")


try:
    from ._build import built_for_torch
except ImportError as error:
    raise ImportError("torch_smoothquant has no compiled part here. If this is the source folder, run 'make build' (or pip install "
                      "--no-build-isolation -e .), or start Python from another folder to use an installed copy") from error
_check_build(built_for_torch, torch.__version__)  # before ._C: another torch's symbols would fail to link with less to read

from .compressors import (  # noqa: E402
    Bernoulli,
    BlockDithering,
    Cast,
    Dithering,
    Identity,
    Natural,
    NaturalDithering,
    PermK,
    Quantizer,
    RandK,
    Sign,
    SmoothBernoulli,
    SparseSign,
    StochasticSparsifier,
    Ternary,
    TopK,
    UniformStep,
    VaryingDithering,
)
from .endpoint import Receiver, Sender, WireError, decode, encode, num_threads, set_num_threads, trim  # noqa: E402
from .hook import Hook, attach, comm_hook, prepare  # noqa: E402
from .mechanisms import (  # noqa: E402
    CLAG,
    DIANA,
    EF21,
    LAG,
    MARINA,
    Accurate,
    Ada3PC,
    AdaCGD,
    Always,
    Bidirectional,
    Condition,
    Direct,
    ErrorFeedback,
    Far,
    Near,
    Settled,
    ThreePC,
)
from .never_slower import NeverSlower  # noqa: E402
from .parser import parse  # noqa: E402
from .policy import CAT, AffineCost, BitCost, Cost, Fixed, MeasuredCost, PacketCost  # noqa: E402
from .running import Running  # noqa: E402
from .smoothness import BlockDiagonal, Diagonal, Matrix, Scalar, Smoothness, from_least_squares, from_logistic  # noqa: E402
from .spec import Compressor, Mechanism, Spec, SpecError  # noqa: E402

__all__ = [
    "CAT", "CLAG", "DIANA", "EF21", "LAG", "MARINA", "Accurate", "Ada3PC", "AdaCGD", "AffineCost", "Always", "Bernoulli", "Bidirectional",
    "BitCost", "BlockDiagonal", "BlockDithering", "Cast", "Compressor", "Condition", "Cost", "Diagonal", "Direct", "Dithering",
    "ErrorFeedback", "Far", "Fixed", "Hook", "Identity", "Matrix", "MeasuredCost", "Mechanism", "Natural", "NaturalDithering", "Near",
    "NeverSlower", "PacketCost", "PermK", "Quantizer", "RandK", "Receiver", "Running", "Scalar", "Sender", "Settled", "Sign",
    "SmoothBernoulli", "Smoothness", "SparseSign", "Spec", "SpecError", "StochasticSparsifier", "Ternary", "ThreePC", "TopK",
    "UniformStep", "VaryingDithering", "WireError", "attach", "comm_hook", "decode", "encode", "from_least_squares", "from_logistic",
    "num_threads", "parse", "prepare", "set_num_threads", "trim",
]
