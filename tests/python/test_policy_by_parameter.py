"""CAT in a hook: a smoothness by parameter, what it comes to and what is refused."""

from __future__ import annotations

import math

import pytest
import torch

import torch_smoothquant as tsq


def parameters() -> list[tuple[str, torch.Tensor, str, str]]:
    top, none = "ErrorFeedback(TopK(ratio=0.1))", "Direct(Identity())"
    return [("a.weight", torch.zeros(4, 5), top, top), ("a.bias", torch.zeros(4), none, none), ("b.weight", torch.zeros(6), top, top)]


def weights(smoothness, **kwargs) -> dict[str, torch.Tensor]:
    from torch_smoothquant.policies import weights_by_parameter

    return weights_by_parameter(tsq.CAT(tsq.BitCost(), smoothness=smoothness, **kwargs), parameters())


def test_weights_follow_names_and_patterns():
    d = torch.linspace(1, 20, 20)
    assert weights(None) == {}
    found = weights({"a.weight": d, "b.*": 4.0})  # a number alone changes nothing within its parameter
    assert set(found) == {"a.weight"} and torch.allclose(found["a.weight"], d.double().rsqrt())
    assert torch.allclose(weights({"a.weight": tsq.Diagonal(9 * d.double())})["a.weight"], d.double().rsqrt())
    common = weights({"a.weight": d, "*": 4.0}, budget=100.0)  # a budget compares all of them; the bias is exempt
    assert set(common) == {"a.weight", "b.weight"} and torch.equal(common["b.weight"], torch.full((6,), 0.5, dtype=torch.float64))
    assert torch.allclose(common["a.weight"], d.double().rsqrt())


def test_wrong_smoothness_by_parameter_is_refused():
    for smoothness, text in (
        ({"a.weight": torch.ones(19)}, r"CAT: smoothness\['a.weight'\]: expected 20 elements, those of a.weight, got 19"),
        ({"*.weight": torch.ones(20)}, "expected 6 elements, those of b.weight, got 20"),
        ({"c.*": 1.0, "*": 2.0}, r"expected patterns that match a parameter, got \['c.\*'\]"),
        ({"a.weight": torch.tensor([1.0, math.inf])}, "expected finite numbers above 0"),
        ({"a.weight": 0.0}, "expected finite numbers above 0"),
        ({"a.weight": -1}, "expected finite numbers above 0"),
    ):
        with pytest.raises(ValueError, match=text):
            weights(smoothness)
    with pytest.raises(ValueError, match=r"as there is a budget for all; not there: \['b.weight'\]"):
        weights({"a.*": 1.0}, budget=10.0)
    for smoothness in ({"a.weight": "high"}, {"a.weight": torch.ones(4, 5)}, {"a.weight": True}, {3: 1.0}):
        with pytest.raises(TypeError, match="CAT: smoothness"):
            weights(smoothness)
    with pytest.raises(ValueError, match="a Sender has no parameters"):
        tsq.Sender("TopK(k=1)", 3, policy=tsq.CAT(tsq.AffineCost(20.0, 1.0), smoothness={"a": 1.0}))
