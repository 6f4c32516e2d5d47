"""Compression without a process group: ``encode``, ``decode``, ``Sender``, ``Receiver``."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from . import _C, policies
from .checks import check_finite, checked_price, checked_rates
from .parser import parse, to_text
from .policies import Policy
from .smoothness import Smoothness, handles_of
from .spec import Compressor, Mechanism, Spec, described

WireError = _C.WireError


def encode(compressor: Compressor | str, x: torch.Tensor, seed: int = 0, step: int = 0, rank: int = 0,
           world_size: int = 1) -> torch.Tensor:
    """One self-describing message of ``x``.

    Args:
        compressor: a compressor or its spec (not a mechanism: encoding is stateless).
        x: contiguous float32, float64, float16 or bfloat16 tensor on the CPU; its shape does not travel.
        seed, step, rank: key of the random numbers; the same key and input give the same bytes everywhere.
        world_size: among how many ranks, for compressors that share the coordinates out (:class:`PermK`).

    Returns:
        1-D uint8 tensor: exactly the bytes that travel. O(numel).
    """
    text = to_text(compressor, "compressor")
    return _C.encode(text, _tensor(x, "x"), _unsigned(seed, "seed"), _unsigned(step, "step"), _integer(rank, "rank"),
                     _integer(world_size, "world_size"))


def decode(message: torch.Tensor) -> torch.Tensor:
    """The 1-D tensor that a message carries, in the dtype that was encoded; NaN where the sender had Inf or NaN.

    Raises:
        WireError: (a ValueError) naming the field, what was expected and what was found, if the bytes are not a legal message, or
            claim more than 2^32 elements or more than memory holds.
    """
    return _C.decode(_tensor(message, "message"))


def trim(message: torch.Tensor) -> torch.Tensor:
    """The bytes that travel of a message in memory of fixed capacity, as ``torch.ops.torch_smoothquant.encode`` returns it: a view.

    Raises:
        WireError: if no header is there, or if it states more bytes than there are.
    """
    message = _tensor(message, "message")
    return message[: _C.stated_length(message)]


def set_num_threads(count: int) -> None:
    """How many threads a compressor may use, the caller's included; 1 at first, which leaves the other cores to the training.

    For the whole process, the hook included. Messages, states and averages do not depend on it. Vectors of 131072 elements and more
    are cut into pieces. ``RandK`` and ``PermK`` run on one thread; so do ``StochasticSparsifier``'s threshold and the coding of a sparse
    message's entries.
    """
    _C.set_num_threads(_integer(count, "num_threads"))


def num_threads() -> int:
    """What :func:`set_num_threads` has set."""
    return _C.num_threads()


class Sender:
    """The worker's half of a mechanism for one flat vector of ``numel`` elements; owns its state (residuals).

    Args:
        spec: mechanism or compressor (a bare compressor means ``Direct`` around it), as object or text.
        numel: length of the gradient.
        rank, world_size: who sends, among how many.
        dtype: of the gradient. State is float32, float64 for float64.
        seed: of the random numbers.
        smoothness: of this worker's loss, for :class:`Direct` (DCGD+) and :class:`DIANA` (DIANA+) in float32 or float64; or a list of all
            workers'. The receiver must be given the same.
        policy: None or ``Fixed()``: what the spec says is sent. :class:`CAT`: how much of it, is chosen in every step.
    """

    def __init__(self, spec: Spec | str, numel: int, rank: int = 0, world_size: int = 1, dtype: torch.dtype = torch.float32, seed: int = 0,
                 smoothness: Smoothness | Sequence[Smoothness] | None = None, policy: Policy | None = None) -> None:
        text = to_text(spec, "spec")
        self.spec = parse(text)
        self.numel, self.rank, self.world_size, self.dtype, self.seed = numel, rank, world_size, dtype, seed
        self.smoothness, self.policy = smoothness, policy
        self._policy = policies.resolve(policy, [text], numel=numel).core
        self._price = 0.0
        self._sender = _C.Sender(text, _integer(numel, "numel"), _integer(rank, "rank"), _integer(world_size, "world_size"),
                                 _dtype(dtype), _unsigned(seed, "seed"), handles_of(smoothness))

    def __reduce__(self) -> tuple[Any, ...]:
        arguments = (self.spec, self.numel, self.rank, self.world_size, self.dtype, self.seed, self.smoothness, self.policy)
        return type(self), arguments, self.state_dict()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.load_state_dict(state)

    def __repr__(self) -> str:
        spec = described(self.spec, self.numel, self.world_size)
        return f"<Sender of {spec}: {self.numel} elements of {self.dtype}, rank {self.rank} of {self.world_size}, step {self.step}>"

    def send(self, grad: torch.Tensor) -> torch.Tensor:
        """The message for this step's gradient: 1-D uint8, exactly the bytes that travel. Updates the state.

        A gradient with Inf or NaN gives a marked message, decodes to NaN on every receiver, and leaves the state as it was.
        """
        return self._sender.send(_tensor(grad, "gradient"), self._policy, self._price)

    @property
    def entries(self) -> int | None:
        """Of the last message: the number of entries that a policy chose and that were sent; None without one."""
        return None if self._sender.choice is None else self._sender.choice[0]

    @property
    def efficiency(self) -> float | None:
        """Of the last message, v being what was compressed and T its entries: |C(v)|^2 / |v|^2 (:class:`TopK`), S^2 / (T |v|^2)
        (:class:`SparseSign`, S the sum of the T magnitudes), |v|^2 / E|C(v)|^2 (:class:`StochasticSparsifier`); None without a policy.

        Under ``Direct``, with the gradient of an L-smooth f, the step 1 / L, sqrt(efficiency / T) / L, or efficiency / L makes f fall by
        efficiency |v|^2 / (2 L): docs/cat.md.
        """
        return None if self._sender.choice is None else self._sender.choice[1]

    @property
    def price(self) -> float:
        """What ``CAT(cost, budget=...)`` charges for a unit of cost, in squared gradient; the same on all ranks. 0: nothing. To be set: see
        :meth:`CAT.next_price`."""
        return self._price

    @price.setter
    def price(self, value: float) -> None:
        self._price = checked_price(value, "price")

    @property
    def step(self) -> int:
        """Number of messages sent."""
        return self._sender.step

    @property
    def state(self) -> dict[str, torch.Tensor]:
        """Copies of the state vectors by name, e.g. ``{"residual": ...}``."""
        return self._sender.state()

    def state_dict(self) -> dict:
        """Everything that a new Sender of the same arguments needs to go on bit for bit."""
        return {"spec": repr(self.spec), "step": self.step, "rates": self._sender.rates, "price": self._price, "state": self.state}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Raises TypeError or ValueError, with nothing changed, if the state is of another spec, length or dtype, or no state."""
        _check_state(state_dict, {"spec", "step", "rates", "state"}, self.spec)
        rates = checked_rates(state_dict["rates"], "state_dict: rates")
        price = checked_price(state_dict.get("price", 0.0), "state_dict: price")
        self._sender.load_state(dict(state_dict["state"]), state_dict["step"])
        self._sender.rates = rates
        self._price = price

    @property
    def rates(self) -> list[float]:
        """By part of the message, the factor on the target rate of a compressor that has one (``UniformStep(bits=)``): moved after every
        message so that what is sent comes to the target. May be set."""
        return self._sender.rates

    @rates.setter
    def rates(self, value: Sequence[float]) -> None:
        self._sender.rates = checked_rates(value, "rates")

    @property
    def level(self) -> int | None:
        """Of the last message: the level of a ladder (0: nothing was sent); None for mechanisms without levels."""
        return None if self._sender.level < 0 else self._sender.level


class Receiver:
    """The averaging half; arguments as for :class:`Sender`. Every receiver of the same messages computes the same bits.

    ``smoothness``: one of every worker, in rank order, or a common one.
    """

    def __init__(self, spec: Spec | str, numel: int, world_size: int = 1, dtype: torch.dtype = torch.float32, seed: int = 0,
                 smoothness: Smoothness | Sequence[Smoothness] | None = None) -> None:
        text = to_text(spec, "spec")
        self.spec = parse(text)
        self.numel, self.world_size, self.dtype, self.seed, self.smoothness = numel, world_size, dtype, seed, smoothness
        self._receiver = _C.Receiver(text, _integer(numel, "numel"), _integer(world_size, "world_size"), _dtype(dtype),
                                     _unsigned(seed, "seed"), handles_of(smoothness))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.spec, self.numel, self.world_size, self.dtype, self.seed, self.smoothness), self.state_dict()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.load_state_dict(state)

    def __repr__(self) -> str:
        spec = described(self.spec, self.numel, self.world_size)
        return f"<Receiver of {spec}: {self.numel} elements of {self.dtype}, {self.world_size} ranks, step {self._receiver.step}>"

    def receive(self, messages: Iterable[torch.Tensor]) -> torch.Tensor:
        """Estimate of the mean gradient from one message of every rank (any order; summed in rank order).

        Mechanisms that send increments need every step's messages, in order.

        Raises:
            WireError: if a message is not legal, not of this spec and length, or not of the step that is due. State is unchanged.
        """
        if not isinstance(messages, Iterable):
            raise TypeError(f"messages: expected a sequence of tensors, got {type(messages).__name__}")
        return self._receiver.receive([_tensor(m, "messages") for m in messages])

    @property
    def state(self) -> dict[str, torch.Tensor]:
        """Copies of the state vectors by name, e.g. ``{"estimate": ...}``; empty for mechanisms without."""
        return self._receiver.state()

    def state_dict(self) -> dict:
        """Everything that a new Receiver of the same arguments needs to go on bit for bit."""
        return {"spec": repr(self.spec), "step": self._receiver.step, "state": self.state}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Raises TypeError or ValueError, with nothing changed, if the state is of another spec, length or dtype, or no state."""
        _check_state(state_dict, {"spec", "step", "state"}, self.spec)
        self._receiver.load_state(dict(state_dict["state"]), state_dict["step"])


def _check_state(state_dict: Mapping[str, Any], keys: set[str], spec: Spec) -> None:
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"state_dict: expected a mapping, got {type(state_dict).__name__}")
    if missing := keys - set(state_dict):
        raise ValueError(f"state_dict: expected the keys {', '.join(sorted(keys))}; not there: {', '.join(sorted(missing))}")
    if state_dict["spec"] != repr(spec):
        raise ValueError(f"state_dict: expected one of {spec!r}, got one of {state_dict['spec']}")
    _unsigned(state_dict["step"], "state_dict: step")
    if not isinstance(state_dict["state"], Mapping):
        raise TypeError(f"state_dict: state: expected a mapping, got {type(state_dict['state']).__name__}")
    for name, vector in state_dict["state"].items():
        if not isinstance(vector, torch.Tensor):
            raise TypeError(f"state_dict: state: {name}: expected a torch.Tensor, got {type(vector).__name__}")
        check_finite(vector, f"state_dict: state: {name}")


def _tensor(value: object, argument: str) -> torch.Tensor:
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{argument}: expected a torch.Tensor, got {type(value).__name__}")
    return value.detach().resolve_neg()  # a lazy minus sign is not in the memory that the compiled part reads


def _integer(value: object, argument: str) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):  # NumPy's too
        raise TypeError(f"{argument}: expected an int, got {type(value).__name__}")
    number = int(value)
    if not -(2**63) <= number < 2**63:  # what the compiled part can take; it knows the argument's own range
        raise ValueError(f"{argument}: expected an int of 64 bits, got {number}")
    return number


def _unsigned(value: object, argument: str) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{argument}: expected an int, got {type(value).__name__}")
    number = int(value)
    if not 0 <= number < 2**64:
        raise ValueError(f"{argument}: expected 0 to 2**64 - 1, got {number}")
    return number


def _dtype(value: object) -> torch.dtype:
    if not isinstance(value, torch.dtype):
        raise TypeError(f"dtype: expected a torch.dtype, got {type(value).__name__}")
    return value


__all__ = ["Mechanism", "Receiver", "Sender", "WireError", "decode", "encode", "num_threads", "set_num_threads", "trim"]
