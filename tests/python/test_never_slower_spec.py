"""The policy as an object: what it stands for, and what it refuses."""

from __future__ import annotations

import math

import pytest

import torch_smoothquant as tsq
from torch_smoothquant.never_slower import LADDER, LONG_LADDER, SGD_LADDER, phrase

FOUR = "ErrorFeedback(Quantizer(bits=4))"


def test_levels():
    assert tsq.NeverSlower().levels(None) == list(SGD_LADDER) and SGD_LADDER[:len(LADDER)] == LADDER and LADDER[0] == FOUR
    assert tsq.NeverSlower(max_error=0.5).levels(None) == list(LONG_LADDER)
    assert tsq.NeverSlower(metric="sgd").levels(None) == list(SGD_LADDER) and tsq.NeverSlower(metric="adam").levels(None) == list(LADDER)
    assert tsq.NeverSlower().levels(tsq.ErrorFeedback(tsq.Quantizer(8))) == ["ErrorFeedback(Quantizer(bits=8))"]
    assert tsq.NeverSlower("ErrorFeedback( Quantizer( bits=4 ) )").levels(None) == [FOUR]
    ladder = tsq.NeverSlower(ladder=[FOUR, tsq.ErrorFeedback(tsq.Sign())])
    assert ladder.levels(None) == [FOUR, "ErrorFeedback(Sign())"]
    assert tsq.NeverSlower().limits() == (math.inf, 0.04) and tsq.NeverSlower(max_error=0.1, min_gain=0).limits() == (0.1, 0.0)


def test_which_ladders_follow_the_optimizer():
    assert tsq.NeverSlower().follows_optimizer(None) and tsq.NeverSlower(tsq.Fixed()).follows_optimizer(None)
    assert not tsq.NeverSlower().follows_optimizer(FOUR)
    for told in ({"metric": "sgd"}, {"metric": "adam"}, {"inner": FOUR}, {"ladder": [FOUR]}, {"max_error": 0.5}):
        assert not tsq.NeverSlower(**told).follows_optimizer(None)


def test_an_inner_policy():
    cat = tsq.CAT(tsq.BitCost())
    assert tsq.NeverSlower(cat).senders is cat and tsq.NeverSlower(FOUR).senders is None
    assert tsq.NeverSlower(tsq.Fixed()).levels(None) == list(SGD_LADDER)
    assert tsq.NeverSlower(cat).levels("TopK(ratio=0.1)") == ["TopK(ratio=0.1)"]
    with pytest.raises(TypeError, match="inner: expected a spec, CAT"):
        tsq.NeverSlower(tsq.NeverSlower())


def test_repr_gives_the_object_back():
    for policy in (tsq.NeverSlower(), tsq.NeverSlower(inner=tsq.Quantizer(4), min_gain=0.1), tsq.NeverSlower(ladder=[FOUR], max_error=0.2)):
        again = eval(repr(policy), vars(tsq))
        assert again == policy and hash(again) == hash(policy)


def test_levels_get_coarser():
    bits = [tsq.parse(level).compressor.expected_bits(2**20) for level in LONG_LADDER]
    assert bits == sorted(bits, reverse=True)


@pytest.mark.parametrize(("arguments", "error", "says"), [
    ({"inner": 4}, TypeError, "inner: expected a spec"), ({"inner": "Quantizer(bits=9)"}, tsq.SpecError, "column"),
    ({"inner": FOUR, "ladder": [FOUR]}, ValueError, "ladder: expected None beside inner"),
    ({"ladder": []}, TypeError, "ladder: expected a sequence"), ({"ladder": FOUR}, TypeError, "ladder: expected a sequence"),
    ({"ladder": [FOUR, 4]}, TypeError, r"ladder\[1\]: expected a spec"),
    ({"ladder": [FOUR, "Bidirectional(Quantizer(bits=4), Quantizer(bits=4))"]}, ValueError, "one direction"),
    ({"max_error": 0}, ValueError, "max_error: expected a positive"), ({"max_error": math.nan}, ValueError, "max_error"),
    ({"metric": "adamw"}, ValueError, "metric: expected None, 'sgd' or 'adam'"),
    ({"metric": "sgd", "ladder": [FOUR]}, ValueError, "metric: expected None beside a ladder"),
    ({"max_error": "small"}, ValueError, "max_error"), ({"min_gain": 1}, ValueError, "min_gain: expected"),
    ({"min_gain": -0.1}, ValueError, "min_gain"), ({"min_gain": True}, ValueError, "min_gain"),
])
def test_refusals(arguments, error, says):
    with pytest.raises(error, match=says):
        tsq.NeverSlower(**arguments)


def test_a_spec_beside_a_ladder():
    with pytest.raises(ValueError, match="without a spec of its own"):
        tsq.NeverSlower(FOUR).levels(FOUR)


def test_phrase():
    shown = {"name": "NeverSlower", "buckets": ["dense", f"all_gather {FOUR}"], "reason": "saves 70 % of the step"}
    assert phrase(shown) == f"NeverSlower: 1 of 2 buckets all_gather {FOUR} (saves 70 % of the step)"
    assert phrase({**shown, "buckets": ["dense"]}) == "NeverSlower: dense (saves 70 % of the step)"
