"""The sparse family (codecs 6, 7, 8): bytes and values of the reference, hostile bytes, classes, what mechanisms make of it."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from flipped import accepted

import torch_smoothquant as tsq
from torch_smoothquant import _C, reference

NUMELS = (0, 1, 2, 31, 255, 256, 257, 1000, 16385)
Q = tsq.Quantizer
VALUES = (None, "fp32", "fp16", "bf16", Q(4, 32), Q(2, 256, "unbiased"), Q(3, 64, "unbiased", "nearest"), Q(1, 32, "fit"))
UNBIASED = VALUES[:6]
SPECS = [
    *(tsq.TopK(0.1, value_dtype=v) for v in VALUES[1:]),
    *(tsq.RandK(ratio=0.1, value_dtype=v) for v in VALUES), tsq.RandK(k=7), tsq.RandK(0.5), tsq.RandK(0.9),
    tsq.RandK(1.0), tsq.RandK(0.2, shared=True),
    *(tsq.PermK(v) for v in VALUES),
    *(tsq.Bernoulli(0.1, v) for v in VALUES), tsq.Bernoulli(1e-5), tsq.Bernoulli(1.0), tsq.Bernoulli(0.7),
    *(tsq.StochasticSparsifier(0.1, v) for v in UNBIASED), tsq.StochasticSparsifier(3), tsq.StochasticSparsifier(1.0),
    tsq.SparseSign(ratio=0.1), tsq.SparseSign(k=5), tsq.SparseSign(ratio=1.0),
]
FAMILY = [tsq.TopK(0.1, value_dtype=Q(4, 32)), tsq.RandK(0.2, value_dtype="fp16"),
          tsq.RandK(k=9), tsq.RandK(0.7, shared=True, value_dtype=Q(3, 32)),
          tsq.PermK(), tsq.PermK(Q(2, 32, "fit")), tsq.Bernoulli(0.2), tsq.Bernoulli(0.2, "bf16"), tsq.StochasticSparsifier(12),
          tsq.StochasticSparsifier(0.2, Q(4, 64)), tsq.SparseSign(k=11)]


def gaussian(numel: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    x = torch.randn(numel, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x *= 2.0 ** torch.arange(numel).div(64, rounding_mode="floor").remainder(9).neg()
    x[::5] = 0
    return x.to(dtype)


def by_reference(spec: tsq.Spec, x: torch.Tensor, **key: int) -> torch.Tensor:
    return reference.encode(x, type(spec).__name__, **key, **dataclasses.asdict(spec))


@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_bytes_and_values_are_the_references(spec, dtype):
    for numel in NUMELS if dtype == torch.float32 else NUMELS[::2]:
        x = gaussian(numel, numel, dtype)
        for world_size in (1, 3, 300) if isinstance(spec, tsq.PermK) else (1,):
            key = {"seed": 3, "step": numel, "rank": 2 % world_size, "world_size": world_size}
            message = tsq.encode(spec, x, **key)
            assert torch.equal(message, by_reference(spec, x, **key)), numel
            assert message.numel() <= 56 + spec.max_bytes(numel, x.dtype)
            assert torch.equal(tsq.decode(message), reference.decode(message))
        assert not tsq.decode(tsq.encode(spec, torch.zeros(numel, dtype=dtype))).any()


@pytest.mark.parametrize("spec", [tsq.Bernoulli(2e-5), tsq.StochasticSparsifier(9)], ids=repr)
def test_rare_entries_are_the_references(spec):  # decided by the second half of the uniform numbers
    x = torch.ones(200_000)
    for step in range(2):
        message = tsq.encode(spec, x, step=step)
        assert torch.equal(message, by_reference(spec, x, step=step)) and message.numel() > 56 + 26


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("spec", FAMILY, ids=repr)
def test_non_finite_is_marked(spec, value):
    x = gaussian(300, 1)
    x[17] = value
    message = tsq.encode(spec, x)
    assert torch.equal(message, by_reference(spec, x)) and not message[56:].any()
    assert tsq.decode(message).isnan().all() and reference.decode(message).isnan().all()
    sender = tsq.Sender(tsq.ErrorFeedback(spec), 300)
    sender.send(gaussian(300, 2))
    owed = sender.state["residual"]
    assert tsq.decode(sender.send(x)).isnan().all() and torch.equal(sender.state["residual"], owed)


@pytest.mark.parametrize("spec", FAMILY, ids=repr)
def test_one_flipped_byte_is_rejected_by_both_or_read_alike(spec):
    message = tsq.encode(spec, gaussian(70, 2), rank=1, world_size=3)
    places = [*range(32, 42), *range(48, message.numel())]  # not the number of elements: one may claim many of nothing
    for flip, expected, got in accepted(message, places, (1, 2, 8, 0x80, 0xFF), "expected .* found "):
        assert torch.equal(expected.nan_to_num(7), got.nan_to_num(7)), flip


@pytest.mark.parametrize("dtype", reference.DTYPES, ids=str)
@pytest.mark.parametrize("spec", FAMILY, ids=repr)
def test_what_is_sent_and_what_is_owed_is_what_was_given(spec, dtype):
    numel = 1000
    sender = tsq.Sender(tsq.ErrorFeedback(spec), numel, dtype=dtype)
    given, got = torch.zeros(numel, dtype=torch.float64), torch.zeros(numel, dtype=torch.float64)
    for step in range(12):
        x = gaussian(numel, step, dtype)
        given += x.double()
        message = sender.send(x)
        got += wide_values(message).double()
    torch.testing.assert_close(got + sender.state["residual"].double(), given, rtol=0, atol=1e-5)
    assert sender.state["residual"].norm() < 12 * 40


def wide_values(message: torch.Tensor) -> torch.Tensor:
    """What error feedback takes from the residual: the values before the last rounding, to the header's dtype."""
    wide = message.clone()
    section = reference.parse_message(message).sections[0]
    if wide[6] in (2, 3) and (section.variant & 7 or section.codec == 8):
        wide[6] = 0
    return tsq.decode(wide)


@pytest.mark.parametrize("spec", [FAMILY[0], FAMILY[-1], tsq.Bernoulli(0.3), tsq.RandK(0.3)], ids=repr)
def test_error_feedback_contracts_by_alpha(spec):
    numel, total = 200, [0.0, 0.0]
    for trial in range(300):
        x = gaussian(numel, trial)
        sender = tsq.Sender(tsq.ErrorFeedback(spec), numel, seed=trial)
        sender.send(x)
        error, norm = float(sender.state["residual"].double().square().sum()), float(x.double().square().sum())
        total[0] += error / norm
        if isinstance(spec, tsq.TopK | tsq.SparseSign):
            assert error <= (1 - spec.alpha(numel)) * norm * (1 + 1e-6)
    assert total[0] / 300 <= (1 - spec.alpha(numel)) * 1.05


@pytest.mark.parametrize("dtype", reference.DTYPES[:2], ids=str)
@pytest.mark.parametrize("spec", [tsq.RandK(0.3), tsq.RandK(k=70, shared=True, value_dtype="bf16"), tsq.PermK(), tsq.PermK("fp16"),
                                  tsq.Bernoulli(0.2), tsq.Bernoulli(0.2, Q(3, 32, "fit")), tsq.StochasticSparsifier(40),
                                  tsq.StochasticSparsifier(0.3, "fp32"), tsq.SparseSign(ratio=0.1)], ids=repr)
def test_error_feedback_sends_the_references_contractive_map(spec, dtype):
    numel, world_size = 701, 3
    for rank in range(world_size):
        sender = tsq.Sender(tsq.ErrorFeedback(spec), numel, rank, world_size, dtype)
        owed = torch.zeros(numel, dtype=dtype)
        for step in range(3):
            owed += gaussian(numel, step, dtype)
            message = sender.send(gaussian(numel, step, dtype))
            assert torch.equal(message, by_reference(spec, owed, step=step, rank=rank, world_size=world_size, contractive=True))
            owed -= tsq.decode(message)
            assert torch.equal(owed, sender.state["residual"])


def test_permk_of_equal_gradients_is_exact_and_shares_out_every_coordinate():
    for numel, world_size in ((1000, 4), (1001, 4), (3, 4), (64, 1), (999, 7)):
        spec = tsq.Direct(tsq.PermK())
        x = gaussian(numel, numel).round(decimals=1)
        senders = [tsq.Sender(spec, numel, rank, world_size) for rank in range(world_size)]
        receiver = tsq.Receiver(spec, numel, world_size)
        for _ in range(3):
            messages = [sender.send(x) for sender in senders]
            torch.testing.assert_close(receiver.receive(messages), x, rtol=1e-6, atol=0)
            kept = torch.stack([tsq.decode(m) != 0 for m in messages]).sum(0)
            assert torch.equal(kept, (x != 0).to(kept.dtype))


def test_permk_variance_identity():
    numel, world_size, trials = 60, 5, 4000
    inputs = torch.stack([gaussian(numel, r).double() for r in range(world_size)])
    mean, error = inputs.mean(0), 0.0
    for step in range(trials):
        messages = [tsq.encode(tsq.PermK(), inputs[r], step=step, rank=r, world_size=world_size) for r in range(world_size)]
        sent = torch.stack([tsq.decode(m) for m in messages])
        error += float((sent.mean(0) - mean).square().sum()) / trials
    assert error == pytest.approx(float(inputs.square().sum() / world_size - mean.square().sum()), rel=0.03)


def test_shared_sets_are_the_same_on_all_ranks_and_others_are_not():
    x = torch.ones(1000)
    for shared in (True, False):
        sets = [tsq.decode(tsq.encode(tsq.RandK(0.1, shared=shared), x, rank=r, world_size=4)) != 0 for r in range(4)]
        assert torch.equal(sets[0], sets[1]) == shared and all(int(s.sum()) == 100 for s in sets)
    receiver = tsq.Receiver("RandK(k=10, shared=True)", 1000, 4)
    mean = receiver.receive([tsq.Sender("RandK(k=10, shared=True)", 1000, r, 4).send(x * r) for r in range(4)])
    assert int((mean != 0).sum()) == 10 and mean.max() == 150


def test_specs_and_classes():
    assert repr(tsq.RandK(0.1, shared=True)) == "RandK(ratio=0.1, shared=True)"
    assert repr(tsq.TopK(k=3, value_dtype=Q(3, 64))) == "TopK(k=3, value_dtype=Quantizer(bits=3, block=64))"
    for spec in SPECS:
        assert tsq.parse(repr(spec)) == spec and _C.canonical(repr(spec)) == repr(spec)
    for text, says in {"RandK(0.1, k=2)": "got both", "TopK(0.1, value_dtype='fp8')": "or a Quantizer", "PermK(Sign())": "or a Quantizer",
                       "StochasticSparsifier(0)": "budget: expected", "StochasticSparsifier(1.5)": "budget: expected",
                       "StochasticSparsifier(4, Quantizer(bits=2, levels='fit'))": "stochastic rounding", "Bernoulli()": "'p'",
                       "Bernoulli(0)": "p: expected", "RandK(0.1, shared=1)": "True or False", "SparseSign()": "got none"}.items():
        with pytest.raises(tsq.SpecError, match=says):
            tsq.parse(text)
    assert tsq.RandK(0.1).omega(1000) == pytest.approx(9) and tsq.RandK(0.1).alpha(1000) == pytest.approx(0.1)
    assert tsq.PermK().omega(1000, world_size=8) == 7 and tsq.PermK().alpha(1000, world_size=8) == 1 / 8
    assert tsq.PermK().omega(1000) == 0 and tsq.PermK().alpha(1000) == 1
    assert tsq.Bernoulli(0.25).omega(10) == 3 and tsq.Bernoulli(0.25).alpha(10) == 0.25
    assert tsq.StochasticSparsifier(10).omega(100) == pytest.approx(9) and tsq.StochasticSparsifier(10).alpha(100) == 0.1
    assert tsq.SparseSign(k=4).omega(64) is None and tsq.SparseSign(k=4).alpha(64) == 1 / 16 and tsq.SparseSign(k=16).alpha(64) == 1 / 16
    inner = Q(4, 32, "unbiased")
    w = inner.omega(1000)
    assert tsq.TopK(0.1, value_dtype=inner).alpha(1000) == pytest.approx(0.1 * (1 - w))
    assert tsq.TopK(0.1, value_dtype=Q(4, 32)).alpha(1000) == pytest.approx(0.1 * Q(4, 32).alpha(100))
    assert tsq.TopK(0.1, value_dtype=Q(2, 256, "unbiased")).alpha(10_000) == pytest.approx(0.1 / (1 + Q(2, 256, "unbiased").omega(1000)))
    assert tsq.RandK(0.1, value_dtype=inner).omega(1000) == pytest.approx(10 * (1 + w) - 1)
    assert tsq.StochasticSparsifier(0.1, inner).alpha(1000) == pytest.approx(0.1 / (1 + w))


def test_world_size_is_checked():
    for wrong in (0, -1, 2**32):
        with pytest.raises(ValueError, match="world_size"):
            tsq.encode(tsq.PermK(), torch.ones(3), world_size=wrong)
    with pytest.raises(ValueError, match="rank"):
        tsq.encode(tsq.PermK(), torch.ones(3), rank=2, world_size=2)
    with pytest.raises(TypeError, match="world_size"):
        tsq.encode(tsq.PermK(), torch.ones(3), world_size=2.0)


def test_stochastic_sparsifier_spends_its_budget_and_levels_are_tau():
    x = gaussian(5000, 1).double()
    counts = [int((tsq.decode(tsq.encode("StochasticSparsifier(100)", x, step=s)) != 0).sum()) for s in range(200)]
    assert sum(counts) / 200 == pytest.approx(100, abs=5 * math.sqrt(100 / 200))
    tau = reference.sparse.solve_threshold(x.abs(), 100)
    assert float((x.abs() / tau).clamp(max=1).sum()) == pytest.approx(100, rel=1e-12)
    sent = tsq.decode(tsq.encode("StochasticSparsifier(100)", x))
    small = sent[(sent != 0) & (x.abs() < tau)].abs()
    torch.testing.assert_close(small, torch.full_like(small, tau), rtol=1e-5, atol=0)
    assert torch.equal(sent[x.abs() >= tau], x[x.abs() >= tau])


def test_the_documents_example_of_a_subset():
    payload = torch.tensor([0] * 8 + [1] + [0] * 7 + [0, 0, 0x80, 0x3F], dtype=torch.uint8)
    section = reference.Section(7, 0, 0, 0, 0, 5, 20, payload)
    message = reference.build_message([section], torch.float32)
    assert tsq.decode(message).tolist() == reference.decode(message).tolist() == [0, 0, 0, 0, 1]
