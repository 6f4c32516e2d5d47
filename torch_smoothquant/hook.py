"""``attach``: DDP's all-reduce replaced by a compressed average. The data path is C++ (csrc/hook); this file checks and wires."""

from __future__ import annotations

import datetime
import math
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from . import _C, checkpoint, policies, watch
from .assignment import Exempt, Strides, assign, in_memory_order, strides_of
from .checks import is_finite
from .mechanisms import Bidirectional
from .never_slower import LADDER, NeverSlower, explain
from .optimizers import OptimizerWatch
from .parser import parse, to_text
from .policies import Policy
from .running import Running, check_running
from .spec import Spec, described

_EXCHANGES = ("auto", "all_gather", "sharded", "dense")
_LONGEST = 30 * 24 * 3600.0
_SMALL_WORLD = 4  # up to here everybody may as well get everybody's message
_attached: weakref.WeakKeyDictionary[DistributedDataParallel, Hook] = weakref.WeakKeyDictionary()

class Hook:
    """What :func:`attach` returns: watches and steers the compression of one DDP module. Methods may be called between steps."""

    def __init__(self, core: _C.Hook, *, config: dict[str, Any], group: dist.ProcessGroup,
                 own_specs: list[tuple[str, str] | None], policy: Policy | None = None, levels: Sequence[str] = (),
                 strides: Strides | None = None, optimizers: OptimizerWatch | None = None) -> None:
        self._core = core
        self._policy = policy
        self._levels = list(levels)  # that a NeverSlower chooses from
        self._optimizers = optimizers  # where what may be chosen depends on them
        self._own_specs = own_specs  # of the parameters that have their own
        self._config = config
        self._strides = strides or {}  # of the parameters that are not contiguous
        self._group: dist.ProcessGroup | None = group
        self._loss_scale: float | None = None

    def stats(self) -> dict[str, Any]:
        """Counters since attach, of this rank.

        ``calls`` buckets averaged (``dense_calls`` of them by all-reduce); ``wire_bytes`` bytes that left this rank (all_gather:
        (W-1) messages; sharded: what went to others; dense: a ring's 2 (W-1)/W); ``handed_bytes`` sizes of the buffers handed to
        collectives; ``dense_bytes`` what plain DDP would have sent; ``ratio`` dense_bytes / wire_bytes; ``non_finite`` parameters
        delivered as NaN because a rank had Inf or NaN; ``state_bytes``, ``buffer_bytes`` memory; ``sent``, ``skipped`` slices of
        parameters and ``levels`` of ladders; ``seconds`` spent in encode, exchange and decode by the worker thread; ``error`` what broke
        the hook, or "". ``policy``: ``name`` and ``spec`` of what chooses; of a ``NeverSlower`` also what it has
        chosen and why, see :func:`torch_smoothquant.never_slower.explain`, and ``metric``, of the optimizer: told, or seen. Plus the
        configuration.
        """
        out = self._core.stats()
        out["ratio"] = out["dense_bytes"] / out["wire_bytes"] if out["wire_bytes"] else math.nan
        policy: dict[str, Any] = {"name": self._config["policy"].partition("(")[0], "spec": self._config["policy"]}
        if isinstance(self._policy, NeverSlower):
            policy |= explain(self._core, self._levels)
            policy["metric"] = self._optimizers.metric if self._optimizers else self._policy.metric
        return {**self._config, "enabled": self._core.enabled, **out, "policy": policy}

    def set_enabled(self, enabled: bool) -> None:
        """Switches compression off (plain all-reduce, state rests) or on again. Collective: every rank must call it alike."""
        if not isinstance(enabled, bool):
            raise TypeError(f"enabled: expected a bool, got {type(enabled).__name__}")
        self._core.set_enabled(enabled)

    def set_loss_scale(self, scale: float) -> None:
        """Tells the loss scale of the coming step (``scaler.get_scale()``): residuals are in its units and follow a change.

        The first call only takes note. Cheap; call it before every backward under a GradScaler.
        """
        if not (is_finite(scale) and scale > 0):
            raise ValueError(f"scale: expected a positive finite number, got {scale!r}")
        if self._loss_scale is not None and scale != self._loss_scale:
            self._core.scale_state(scale / self._loss_scale)
        self._loss_scale = float(scale)

    def state_dict(self, mode: str = "rank") -> dict[str, Any]:
        """State as plain values and tensors: residuals, shifts, estimates and counters by parameter name. No process group in it.

        Args:
            mode: ``"rank"``: this rank's own; save one file per rank; loading it at the same rank and world size resumes bit for bit.
                ``"mean"``: collective; the same on every rank, for any world size: workers' vectors are replaced by their mean over ranks,
                which keeps what error feedback owes and what an estimate means.
                What a ``MeasuredCost`` has learnt (``"measured"``) is this rank's, or that of the samples of all ranks.
        """
        return {**checkpoint.save(self._core, mode, self._identity()), "loss_scale": self._loss_scale, "price": self._core.price(),
                "measured": checkpoint.measured(self._core, mode)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restores :meth:`state_dict` of either mode, between steps; every rank must.

        Raises:
            ValueError: naming both sides, with nothing changed, if it is of another version, spec or model, or (mode ``"rank"``) of another
                rank, world size or exchange.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict: expected a mapping, got {type(state_dict).__name__}")
        measured = checkpoint.checked_measured(state_dict.get("measured"))
        checkpoint.load(self._core, state_dict, self._identity())
        if measured is not None:
            self._core.set_measured(measured)
        self._loss_scale = state_dict["loss_scale"]
        self._core.set_price(state_dict.get("price", 0.0))

    def set_spec(self, up: Spec | str, down: Spec | str | None = None) -> None:
        """Compresses by another spec from the next step on. Collective: every rank must call it alike, between steps.

        What was carried goes on under the new spec where it means the same there (residuals; shifts and estimates of the EF21 family and
        DIANA); what error feedback still owes and the new mechanism cannot keep is added to the next gradients. Parameters under
        ``overrides`` or exempt keep theirs. Under ``NeverSlower`` the choice is from then on between dense and this spec.

        Args:
            up, down: as for :func:`attach`; None: as ``up``. The exchange stays: a ``down`` of its own needs the sharded one.
        """
        up_text, down_text, own_down = resolve_specs(up, down)
        if own_down and self._config["exchange"] != "sharded":
            raise ValueError(f"down: expected None with exchange={self._config['exchange']!r} (only the sharded exchange sends averages), "
                             f"got {down_text}")
        policies.resolve(self._policy, [up_text, down_text, *(text for own in self._own_specs if own for text in own)])
        self._core.set_specs([(up_text, down_text) if own is None else own for own in self._own_specs])
        self._config.update(spec=up_text, down=down_text)
        self._levels = [up_text]

    def update_smoothness(self, diagonals: Mapping[str, torch.Tensor | float]) -> None:
        """Tells ``Running("hutchinson")`` of curvature: the next term of its average. Collective, between steps: every rank must give the
        same numbers, and is refused with all others if it does not.

        Args:
            diagonals: by parameter name, an estimate of the Hessian's diagonal (the parameter's number of elements, e.g. z * Hz averaged
                over ranks) or one number for all of it. Signs do not count. Names that are not planned are ignored.
        """
        if not isinstance(diagonals, Mapping):
            raise TypeError(f"diagonals: expected a mapping from names of parameters, got {type(diagonals).__name__}")
        for name, value in diagonals.items():
            if isinstance(value, bool) or not isinstance(value, (int, float, torch.Tensor)):
                raise TypeError(f"diagonals: {name}: expected a tensor or a number, got {type(value).__name__}")
        known = set(self._core.parameter_names())
        if unknown := sorted(set(diagonals) - known):
            raise ValueError(f"diagonals: expected names of parameters, got {unknown[:5]}")
        flat = {name: torch.as_tensor(value, dtype=torch.float64).detach().flatten() for name, value in diagonals.items()}
        self._core.update_smoothness({name: in_memory_order(name, value, self._strides).contiguous() for name, value in flat.items()})

    def stats_by_parameter(self) -> dict[str, dict[str, Any]]:
        """What can be watched of each parameter: see :func:`torch_smoothquant.watch.by_parameter`."""
        return watch.by_parameter(self._core)

    def log_line(self) -> str:
        """The statistics in one line."""
        return watch.line(self.stats(), watch.totals(self._core))

    def write_scalars(self, writer: Any, step: int, prefix: str = "torch_smoothquant", per_parameter: bool = False) -> None:
        """Writes the statistics to a TensorBoard ``SummaryWriter`` (anything with ``add_scalar(tag, value, step)``)."""
        parameters = self.stats_by_parameter() if per_parameter else {}
        for tag, value in watch.scalars(self.stats(), watch.totals(self._core), parameters).items():
            writer.add_scalar(f"{prefix}/{tag}", value, step)

    def close(self) -> None:
        """Finishes what is queued, stops the worker thread, gives the process group up. Idempotent. A later backward raises."""
        if self._optimizers is not None:
            self._optimizers.stop()
        self._core.close()
        if self._group is not None:
            group, self._group = self._group, None
            _destroy_group(group)

    def _identity(self) -> dict[str, Any]:
        planned = ("smoothness",) if self._config["smoothness"] != "None" else ()
        out = {"rank": self._core.rank, **{k: self._config[k] for k in ("world_size", "spec", "down", "exchange", "seed", *planned)}}
        return {**out, "strides": {name: list(stride) for name, (_, stride) in self._strides.items()}} if self._strides else out

    def __repr__(self) -> str:
        return (f"Hook({described(parse(self._config['spec']))}, exchange={self._config['exchange']!r}, rank {self._core.rank} of "
                f"{self._core.world_size})")


def attach(
    ddp: DistributedDataParallel,
    up: Spec | str | None = None,
    down: Spec | str | None = None,
    *,
    exchange: str = "auto",
    policy: Policy | None = None,
    smoothness: Running | None = None,
    overrides: Mapping[str, Spec | str] | None = None,
    exempt: Exempt = "default",
    seed: int = 0,
    timeout: float | datetime.timedelta = 300.0,
) -> Hook:
    """Replaces the all-reduce of ``ddp`` by a compressed average. Collective: every rank must call it with the same arguments.

    Args:
        ddp: a CPU ``DistributedDataParallel`` without a hook. Call before or between iterations.
        up: what workers send: a mechanism or compressor, as object or text. None: what the policy says.
        down: what the owners of shards send back in the sharded exchange. None: as ``up``.
        exchange: ``"all_gather"`` (every rank gets every message), ``"sharded"`` (each part goes to its owner, who averages, compresses
            again and sends it to all), ``"dense"`` (plain all-reduce). ``"auto"``: sharded for more than 4 ranks or if ``down`` is given;
            all_gather otherwise. Specs that compress nothing (``Identity``) always travel dense. Under ``NeverSlower`` the one that buckets
            may take besides dense; ``"auto"``: the policy chooses.
        policy: what chooses how each bucket travels in each step. None: :class:`NeverSlower` over its ladder, which compresses where and as
            far as that makes steps shorter, if neither ``up`` nor ``smoothness`` is given; else always ``up`` (None: 4 bits).
            ``NeverSlower()`` beside ``up``: dense or ``up``. Its choices follow measured times, so two runs are equal bit for bit only
            without it. ``Fixed()``: always ``up``. :class:`CAT`: sparse compressors choose how much in every step.
        smoothness: a :class:`Running` estimate: the widths of the spec's ``Quantizer`` are then averages, planned anew every so many steps
            for each parameter under the same budget of bytes (``Running("kronecker")``: another basis). None: nothing is planned.
        overrides: spec by glob pattern of the parameter's name, first match counts, before ``exempt``: ``{"*.embed.*": "Identity()"}``.
        exempt: parameters that travel uncompressed inside the same message. ``"default"``: ndim <= 1 or fewer than 2048 elements.
            None: no parameter. A callable ``(name, parameter) -> bool`` in place of the rule. A sequence of glob patterns: these too.
        seed: of the random numbers; the same on all ranks (they are independent by rank).
        timeout: seconds (or timedelta) for each collective; a dead or hanging peer raises out of ``backward()`` within it.

    Returns:
        Hook: for statistics, checkpoints, switching off.

    Raises:
        TypeError, ValueError, SpecError: bad arguments, or ranks that disagree (the message names the difference, on every rank).
        RuntimeError: a module whose hook would never be called or that already has one; says what to do instead. Nothing is changed.
    """
    check_attachable(ddp)
    hook = prepare(ddp, up, down, exchange=exchange, policy=policy, smoothness=smoothness, overrides=overrides, exempt=exempt, seed=seed,
                   timeout=timeout)
    try:
        hook._core.register(ddp.reducer)
    except RuntimeError as error:
        hook.close()
        raise RuntimeError(f"attach: DDP did not take the hook: {str(error).splitlines()[0]}") from error
    ddp.logger._set_comm_hook_name("torch_smoothquant")
    _attached[ddp] = hook
    return hook


def prepare(
    ddp: DistributedDataParallel,
    up: Spec | str | None = None,
    down: Spec | str | None = None,
    *,
    exchange: str = "auto",
    policy: Policy | None = None,
    smoothness: Running | None = None,
    overrides: Mapping[str, Spec | str] | None = None,
    exempt: Exempt = "default",
    seed: int = 0,
    timeout: float | datetime.timedelta = 300.0,
) -> Hook:
    """As :func:`attach`, without registering anything: pass the result to ``ddp.register_comm_hook(hook, comm_hook)``, or call
    :func:`comm_hook` from a Python hook of your own, to compose it with other steps."""
    if not isinstance(ddp, DistributedDataParallel):
        raise TypeError(f"ddp: expected a DistributedDataParallel, got {type(ddp).__name__}")
    running = check_running(smoothness)
    if exchange not in _EXCHANGES:
        raise ValueError(f"exchange: expected one of {', '.join(map(repr, _EXCHANGES))}, got {exchange!r}")
    if policy is None and up is None and running is None and exchange != "dense":
        policy = NeverSlower()
    chooses = policy if isinstance(policy, NeverSlower) else None
    levels = chooses.levels(up) if chooses else [to_text(LADDER[0] if up is None else up, "up")]
    if chooses is not None and running is not None and (running.kind == "kronecker" or len(levels) > 1):
        raise ValueError("policy: a NeverSlower beside smoothness expects one spec, whose widths are planned, and not 'kronecker', which "
                         f"would turn dense buckets too; got {running!r} and {len(levels)} levels")
    up_text, down_text, own_down = resolve_specs(levels[0], down)
    seconds = _seconds(timeout)
    world = dist.get_world_size(ddp.process_group)
    if exchange == "auto":
        both_ways = chooses is not None and world > 2 and _C.state_counts(up_text)[1] == 0  # all_gather is possible in either
        exchange = "sharded" if own_down or world > _SMALL_WORLD or both_ways else "all_gather"
    elif own_down and exchange != "sharded":
        raise ValueError(f"down: expected None with exchange={exchange!r} (only the sharded exchange sends averages), got {down_text}")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed: expected an int, got {type(seed).__name__}")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed: expected 0 to 2**64 - 1, got {seed}")
    parameters, own_specs, exempted = assign(ddp, up_text, down_text, {} if overrides is None else overrides, exempt)
    coarser = [(level, down_text) for level in levels[1:]]
    ladders = [(*p, coarser if own is None else []) for p, own in zip(parameters, own_specs, strict=True)]
    resolved = policies.resolve(policy, [up_text, down_text, *(text for own in own_specs if own for text in own)])
    weights = policies.weights_by_parameter(policy, parameters)
    config = {"spec": up_text, "down": down_text, "smoothness": repr(running), "exchange": exchange, "policy": resolved.text, "seed": seed,
              "world_size": world, "parameters": len(parameters), "exempt_parameters": exempted}
    group = _new_group(ddp.process_group, seconds)
    follows = chooses is not None and chooses.follows_optimizer(up)
    usable = len(LADDER) if follows else len(levels)  # until an optimizer was seen
    hold_unused = bool(ddp.find_unused_parameters or getattr(ddp, "static_graph", False))
    try:
        core = _C.Hook(ladders, group.group_name, exchange, seed, hold_unused, seconds,
                       fingerprint=f"spec {up_text} down {down_text} smoothness {running!r} policy {resolved.text}",
                       smoothness=running.numbers() if running else None, policy=resolved.core, weights=weights,
                       never_slower=(*chooses.limits(), usable) if chooses else None)
    except BaseException:
        _destroy_group(group)
        raise
    optimizers = None
    if follows:
        optimizers = OptimizerWatch(ddp.module, lambda metric: core.allow_levels(len(levels) if metric == "sgd" else usable))
    return Hook(core, config=config, group=group, own_specs=own_specs, policy=policy, levels=levels, strides=strides_of(parameters),
                optimizers=optimizers)


def resolve_specs(up: Spec | str, down: Spec | str | None) -> tuple[str, str, bool]:
    """The specs of both directions as text, and whether the second is one of its own."""
    up_text = to_text(up, "up")
    if isinstance(both := parse(up_text), Bidirectional):
        if down is not None:
            raise ValueError("down: expected None beside a Bidirectional, which has its own")
        up_text, down = repr(both.up), both.down
    down_text = up_text if down is None else to_text(down, "down")
    if isinstance(parse(down_text), Bidirectional):
        raise ValueError(f"down: expected a mechanism of one direction, got {down_text}")
    return up_text, down_text, down is not None


def _new_group(like: dist.ProcessGroup, seconds: float) -> dist.ProcessGroup:
    """A Gloo group of the ranks of ``like`` for the hook alone: others' collectives on it would break the order Gloo matches by."""
    ranks = dist.get_process_group_ranks(like)
    try:
        return dist.new_group(ranks, backend="gloo", timeout=datetime.timedelta(seconds=seconds),
                              use_local_synchronization=not _is_world(ranks))
    except RuntimeError as error:
        raise RuntimeError(f"attach: expected all {len(ranks)} ranks of the DDP module's group within {seconds:g} s, got no group of "
                           f"them; did one of them raise, or not call attach? ({str(error).splitlines()[0]})") from error


def _destroy_group(group: dist.ProcessGroup) -> None:
    # A group of some ranks is named after how many groups there are: destroying one would let the next take its name, and with it
    # stale addresses in the store. It stays until destroy_process_group().
    if dist.is_initialized() and _is_world(dist.get_process_group_ranks(group)):
        dist.destroy_process_group(group)


def _is_world(ranks: Sequence[int]) -> bool:
    return len(ranks) == dist.get_world_size()


def comm_hook(state: Hook, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """A Python DDP hook over the same C++ pipeline: ``ddp.register_comm_hook(prepare(ddp), comm_hook)``.

    Returns the future of the bucket's mean; chain ``.then`` to compose. The callback runs on the hook's worker thread.
    """
    return state._core.run(bucket).then(_value)  # DDP takes from Python only futures of Python objects


comm_hook.__annotations__ = {"state": object, "bucket": dist.GradBucket, "return": torch.futures.Future[torch.Tensor]}  # DDP checks them


def _value(future: torch.futures.Future[Any]) -> torch.Tensor:
    return future.value()


def check_attachable(ddp: DistributedDataParallel) -> None:
    """Raises if a hook on ``ddp`` would be ignored or is impossible; says what to do instead."""
    if not isinstance(ddp, DistributedDataParallel):
        raise TypeError(f"ddp: expected a DistributedDataParallel, got {type(ddp).__name__}: wrap the model first")
    if ddp in _attached:
        raise RuntimeError("attach: this module already has a torch_smoothquant hook; DDP takes one hook for its lifetime. "
                           "Steer the existing one, or make a new DistributedDataParallel")
    if getattr(ddp, "_use_python_reducer", False):
        raise RuntimeError("attach: DDP was built under torch._dynamo.config.optimize_ddp = 'python_reducer', where a C++ hook is "
                           "never called. Set it to True or 'python_reducer_without_compiled_forward' before DistributedDataParallel(...)")
    if getattr(ddp, "mixed_precision", None) is not None:
        raise RuntimeError("attach: DDP's mixed_precision= occupies the hook slot. Use torch.autocast instead")
    if getattr(ddp, "_comm_hooks", None):
        raise RuntimeError("attach: this module already has a communication hook. Make a new DistributedDataParallel, or compose: "
                           "prepare(ddp) and comm_hook inside your own hook")
    if getattr(ddp, "_delay_all_reduce_params", None) or getattr(ddp, "_delay_all_reduce_all_params", False):
        raise RuntimeError("attach: delay_all_reduce_named_params takes parameters past the reducer, where no hook "
                           "sees them. Build DDP without it")
    if any(getattr(p, "_in_backward_optimizers", None) for p in ddp.module.parameters()):
        raise RuntimeError("attach: _apply_optimizer_in_backward registers a hook of its own. Build the model without it")
    for name, module in ddp.module.named_modules():
        if getattr(module, "sparse", False) is True:
            raise RuntimeError(f"attach: {name or type(module).__name__} makes sparse gradients, which are not supported. "
                               "Build it with sparse=False")


def _seconds(timeout: float | datetime.timedelta) -> float:
    seconds = timeout.total_seconds() if isinstance(timeout, datetime.timedelta) else timeout
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 1e-3 <= seconds <= _LONGEST:
        raise ValueError(f"timeout: expected a timedelta or seconds from 0.001 to {_LONGEST:.0f}, got {timeout!r}")
    return float(seconds)
