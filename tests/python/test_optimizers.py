"""Which optimizer steps a module's parameters, as torch's own hook on steps shows it."""

from __future__ import annotations

import copy
import gc

import pytest
import torch

from torch_smoothquant import optimizers
from torch_smoothquant.optimizers import OptimizerWatch


class Watched:
    def __init__(self):
        self.model = torch.nn.Linear(3, 2)
        self.told: list[str | None] = []
        self.watch = OptimizerWatch(self.model, self.told.append)

    def step(self, optimizer):
        self.model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()


class Sub(torch.optim.SGD):
    pass


class Wrapper(torch.optim.Optimizer):
    """As ZeroRedundancyOptimizer: an optimizer around another."""

    def __init__(self, inner):
        self.optim = inner
        super().__init__(inner.param_groups, {})

    def step(self, closure=None):
        return self.optim.step(closure)


@pytest.mark.parametrize("make", [
    lambda p: torch.optim.SGD(p, lr=0.1), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True), lambda p: Sub(p, lr=0.1),
    lambda p: Wrapper(torch.optim.SGD(p, lr=0.1)),
])
def test_sgd_is_seen_at_its_first_step(make):
    w = Watched()
    optimizer = make(w.model.parameters())
    assert w.watch.metric is None and w.told == []
    w.step(optimizer)
    assert w.watch.metric == "sgd" and w.told == ["sgd"]
    w.step(optimizer)
    assert w.told == ["sgd"]


@pytest.mark.parametrize("make", [torch.optim.AdamW, torch.optim.Adagrad, torch.optim.RMSprop, lambda p: Wrapper(torch.optim.Adam(p))])
def test_others_are_not_taken_for_sgd(make):
    w = Watched()
    w.step(make(w.model.parameters()))
    assert w.watch.metric is None and w.told == []


def test_one_other_among_them_decides():
    w = Watched()
    w.step(torch.optim.SGD([w.model.weight], lr=0.1))
    w.step(torch.optim.Adam([w.model.bias]))
    w.step(torch.optim.SGD([w.model.weight], lr=0.1))
    assert w.watch.metric is None and w.told == ["sgd", None]


def test_optimizers_of_other_modules_do_not_count():
    w, other = Watched(), torch.nn.Linear(2, 2)
    other(torch.ones(1, 2)).sum().backward()
    torch.optim.SGD(other.parameters(), lr=0.1).step()
    assert w.told == []


def test_stops_and_dies():
    stopped, dead = Watched(), Watched()
    stopped.watch.stop()
    stopped.step(torch.optim.SGD(stopped.model.parameters(), lr=0.1))
    assert stopped.told == []
    told, count = dead.told, len(optimizers._watches)
    model, dead.watch = dead.model, None
    gc.collect()
    assert len(optimizers._watches) == count - 1
    model(torch.ones(1, 3)).sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert told == []


def test_optimizers_stay_what_they_are():
    w = Watched()
    optimizer = torch.optim.SGD(w.model.parameters(), lr=0.1, momentum=0.9)
    w.step(optimizer)
    again = copy.deepcopy(optimizer)
    assert again.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]


def test_a_compiled_step_is_seen_too():
    w = Watched()
    optimizer = torch.optim.SGD(w.model.parameters(), lr=torch.tensor(0.1))
    step = torch.compile(optimizer.step, backend="aot_eager")
    w.model(torch.ones(1, 3)).sum().backward()
    before = w.model.weight.detach().clone()
    step()
    assert not torch.equal(before, w.model.weight.detach())
    assert w.told == ["sgd"]
