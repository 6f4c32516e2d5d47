"""Specs: one grammar and one parser, in C++; the Python classes must agree with it in every name, order and default."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import pickle
import re

import numpy as np
import pytest
import torch

import torch_smoothquant as tsq
from torch_smoothquant import _C
from torch_smoothquant.parser import _CLASSES, to_text

LEGAL_CHOICES = [(levels, rounding) for levels in (None, "unbiased", "fit") for rounding in (None, "stochastic", "nearest")
                 if (levels, rounding) != ("fit", "stochastic")]
QUANTIZERS = [tsq.Quantizer(bits, block, levels, rounding)
              for bits, block, (levels, rounding) in itertools.product((1, 2, 4, 8), (32, 256, 4096), LEGAL_CHOICES)]
UNIFORM = [tsq.UniformStep(0.5), tsq.UniformStep(step=1e-3, rounding="nearest")]
COMPRESSORS = [tsq.Identity(), tsq.Natural(), *UNIFORM, *QUANTIZERS, *map(tsq.Sign, (32, 256, 4096)),
               *map(tsq.Ternary, (32, 256, 4096)),
               tsq.TopK(0.5), tsq.TopK(k=2, value_dtype="fp16"), tsq.RandK(0.25, shared=True),
               tsq.RandK(k=3, value_dtype=tsq.Quantizer(3, 64)),
               tsq.PermK(), tsq.PermK(tsq.Quantizer(8)), tsq.Bernoulli(0.1, "bf16"), tsq.StochasticSparsifier(5),
               tsq.StochasticSparsifier(0.5, tsq.Quantizer(2)), tsq.SparseSign(ratio=0.01), tsq.SparseSign(k=9),
               *map(tsq.Cast, ("fp16", "bf16", "fp8", "fp8_e5m2")),
               *(cls(levels, norm, block) for cls, levels, norm, block in itertools.product(
                   (tsq.Dithering, tsq.NaturalDithering), (1, 30), (2, "inf"), (None, 32, 65536)))]
SPECS = [*COMPRESSORS, *map(tsq.Direct, COMPRESSORS), *map(tsq.ErrorFeedback, COMPRESSORS)]


@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_repr_round_trip(spec):
    again = tsq.parse(repr(spec))
    assert again == spec and type(again) is type(spec) and hash(again) == hash(spec)
    assert repr(again) == repr(spec)
    assert _C.canonical(repr(spec)) == repr(spec)


def test_repr_shows_bits_always_and_other_defaults_never():
    assert repr(tsq.Quantizer()) == "Quantizer(bits=4)"
    assert repr(tsq.Quantizer(4, 64, "fit", "nearest")) == "Quantizer(bits=4, block=64, levels='fit', rounding='nearest')"
    assert repr(tsq.ErrorFeedback(tsq.Quantizer(3))) == "ErrorFeedback(Quantizer(bits=3))"
    assert repr(tsq.Direct(tsq.Identity())) == "Direct(Identity())"
    assert len(set(map(repr, SPECS))) == len(SPECS)


@pytest.mark.parametrize(("text", "spec"), [
    ("Quantizer", None),
    ("Quantizer()", tsq.Quantizer()),
    ("  Quantizer ( 3 , 64,\n\t'fit', )  ", tsq.Quantizer(3, 64, "fit")),
    ('Quantizer(rounding="nearest", bits=+2)', tsq.Quantizer(2, rounding="nearest")),
    ("Quantizer(levels=None, rounding=None)", tsq.Quantizer()),
    ("Direct(compressor=Identity())", tsq.Direct(tsq.Identity())),
    ("Dithering(3, norm=2.0, block=None)", tsq.Dithering(3)),
    ('NaturalDithering(3, "inf")', tsq.NaturalDithering(3, float("inf"))),
    ("Cast('bf16')", tsq.Cast("bf16")),
    ("ErrorFeedback(Quantizer(8))", tsq.ErrorFeedback(tsq.Quantizer(8))),
])
def test_other_spellings(text, spec):
    if spec is None:
        with pytest.raises(tsq.SpecError):
            tsq.parse(text)
    else:
        assert tsq.parse(text) == spec


@pytest.mark.parametrize(("text", "column", "says"), [
    ("", 1, "a name"),
    ("   ", 4, "a name"),
    ("Quantizer(bits=4", 17, "','"),
    ("Quantizer(bits=4))", 18, "the end"),
    ("Quantizer(bits=4) x", 19, "the end"),
    ("Quantizer(bits 4)", 16, "'('"),
    ("Quantizer(bits=4,, block=64)", 18, "a name"),
    ("Quantizer(bits=4;block=64)", 17, "','"),
    ("Quantizer(levels='fit)", 19, "not closed"),
    ("Quantizer(bits=4x)", 16, "not a number"),
    ("Quantizer(bits=9)", 16, "1 to 8"),
    ("Quantizer(bits=0)", 16, "1 to 8"),
    ("Quantizer(bits=-1)", 16, "1 to 8"),
    ("Quantizer(bits=0.9)", 16, "an integer"),
    ("Quantizer(bits=99999999999999999999)", 16, "an integer"),
    ("Quantizer(bits=True)", 16, "an integer"),
    ("Quantizer(bits='4')", 16, "an integer"),
    ("Quantizer(block=48)", 1, "a power of two"),
    ("Quantizer(block=16)", 17, "32 to 4096"),
    ("Quantizer(block=8192)", 17, "32 to 4096"),
    ("Quantizer(levels='best')", 18, "'unbiased' or 'fit'"),
    ("Quantizer(rounding='up')", 20, "'stochastic' or 'nearest'"),
    ("Quantizer(levels='fit', rounding='stochastic')", 1, "rounding"),
    ("Quantizer(levels=4)", 18, "levels"),
    ("Quantizer(bits=4, 64)", 19, "positional"),
    ("Quantizer(4, bits=4)", 19, "given twice"),
    ("Quantizer(4, 256, None, None, None, 1)", 37, "at most 5"),
    ("Quantizer(width=4)", 17, "no argument 'width'"),
    ("Dithering()", 1, "levels: expected an integer from 1 to 32767, got none"),
    ("Dithering(0)", 11, "levels: expected an integer from 1 to 32767"),
    ("Dithering(4, 3)", 14, "norm: expected 2 or 'inf', got 3"),
    ("Dithering(4, 'max')", 14, "norm: expected 2 or 'inf', got 'max'"),
    ("Dithering(4, block=48)", 1, "a power of two from 32 to 65536"),
    ("Dithering(4, block=131072)", 20, "from 32 to 65536"),
    ("NaturalDithering(levels=31)", 25, "1 to 30"),
    ("Cast('int8')", 6, "'fp16' or 'bf16' or 'fp8' or 'fp8_e5m2'"),
    ("Nothing(bits=4)", 1, "Nothing"),
    ("ErrorFeedback()", 1, "'compressor'"),
    ("ErrorFeedback(4)", 15, "compressor"),
    ("ErrorFeedback('Quantizer(bits=4)')", 15, "compressor"),
    ("ErrorFeedback(Direct(Identity()))", 15, "unknown compressor"),
    ("ErrorFeedback(Quantizer(bits=99))", 30, "1 to 8"),
    ("Direct(Identity(1))", 17, "at most 0"),
    ("4", 1, "unknown"),
    ("[Quantizer()]", 1, "unknown"),
    ("Direct(" * 40 + "Identity()" + ")" * 40, 232, "nested deeper"),
    ("[" * 100_000, 34, "nested deeper"),
])
def test_errors_show_the_column(text, column, says):
    with pytest.raises(tsq.SpecError) as caught:
        tsq.parse(text)
    message = str(caught.value)
    head = message.split("\n")[0]
    assert says in head, message
    assert f"(column {column})" in head, message
    assert message.split("\n")[-1] == " " * (column + 1) + "^"


@pytest.mark.parametrize("arguments", [
    {"bits": 0}, {"bits": 9}, {"bits": 8.5}, {"bits": True}, {"bits": "4"}, {"bits": None}, {"block": 31}, {"block": 48},
    {"block": 8192}, {"block": -256}, {"levels": "Fit"}, {"levels": 1}, {"rounding": "down"}, {"rounding": False},
    {"levels": "fit", "rounding": "stochastic"},
], ids=repr)
def test_objects_refuse_what_the_parser_refuses(arguments):
    with pytest.raises(tsq.SpecError) as caught:
        tsq.Quantizer(**arguments)
    assert any(name in str(caught.value) for name in arguments)


@pytest.mark.parametrize("make", [tsq.Direct, tsq.ErrorFeedback])
def test_mechanisms_take_a_compressor(make):
    for wrong in ("Quantizer(bits=4)", 4, None, tsq.Direct(tsq.Identity()), [tsq.Identity()]):
        with pytest.raises(tsq.SpecError):
            make(wrong)
    with pytest.raises(TypeError):
        make()


def test_types():
    assert issubclass(tsq.SpecError, ValueError)
    for wrong in (None, 4, b"Identity()", tsq.Identity()):
        with pytest.raises(TypeError, match="spec: expected a string"):
            tsq.parse(wrong)
    with pytest.raises(TypeError, match="up: expected a spec"):
        to_text(4, "up")
    assert isinstance(tsq.Identity(), tsq.Compressor) and isinstance(tsq.Direct(tsq.Identity()), tsq.Mechanism)
    assert to_text("Quantizer(4)", "up") == "Quantizer(bits=4)"


def test_frozen_equal_hashable_copyable():
    one, two = tsq.ErrorFeedback(tsq.Quantizer(3)), tsq.ErrorFeedback(tsq.Quantizer(3, 256, None))
    assert one == two and hash(one) == hash(two) and {one: 1}[two] == 1
    assert one != tsq.Direct(tsq.Quantizer(3)) and one != repr(one) and tsq.Quantizer(3) != tsq.Quantizer(4)
    for name in ("compressor", "anything"):
        with pytest.raises((dataclasses.FrozenInstanceError, AttributeError)):
            setattr(one, name, tsq.Identity())
    assert pickle.loads(pickle.dumps(one)) == copy.deepcopy(one) == one
    assert dataclasses.replace(tsq.Quantizer(3), bits=5) == tsq.Quantizer(5)


# ------------------------------------------------------------------ the classes against the parser


REQUIRED = {(tsq.ThreePC, "second"), (tsq.UniformStep, "step"), (tsq.BlockDithering, "budget"), (tsq.SmoothBernoulli, "budget"),
            (tsq.VaryingDithering, "budget")}
COUNTED = (tsq.RandK, tsq.SparseSign, tsq.TopK)  # ratio or k: one of the two is required
# where the constructor needs more than one compressor, or alternatives exclude each other
SAMPLES: dict[type[tsq.Spec], tsq.Spec] = {
    tsq.TopK: tsq.TopK(k=3),
    tsq.RandK: tsq.RandK(k=3),
    tsq.UniformStep: tsq.UniformStep(step=3),
    tsq.Cast: tsq.Cast("fp8"),
    tsq.Dithering: tsq.Dithering(3),
    tsq.NaturalDithering: tsq.NaturalDithering(3),
    tsq.SparseSign: tsq.SparseSign(k=3),
    tsq.Bernoulli: tsq.Bernoulli(1.0),
    tsq.StochasticSparsifier: tsq.StochasticSparsifier(1.0),
    tsq.BlockDithering: tsq.BlockDithering(3, 9.5),
    tsq.SmoothBernoulli: tsq.SmoothBernoulli(5),
    tsq.VaryingDithering: tsq.VaryingDithering(5),
    tsq.LAG: tsq.LAG(0.5),
    tsq.CLAG: tsq.CLAG(tsq.Quantizer(3), 2.0),
    tsq.MARINA: tsq.MARINA(tsq.Quantizer(3), 0.25),
    tsq.AdaCGD: tsq.AdaCGD([tsq.TopK(k=3), tsq.TopK(k=9)], 16.0),
    tsq.Ada3PC: tsq.Ada3PC([tsq.LAG(0.5), tsq.EF21(tsq.Sign())], [tsq.Near(0.5)]),
    **{cls: cls(0.5) for cls in (tsq.Near, tsq.Far, tsq.Settled, tsq.Accurate)},
    tsq.Bidirectional: tsq.Bidirectional(tsq.EF21(tsq.Sign()), tsq.LAG(1.0)),
    tsq.ThreePC: tsq.ThreePC(tsq.TopK(k=3), 2, tsq.Quantizer(3)),
    tsq.EF21: tsq.EF21(tsq.Quantizer(3), 0.1, "zero"),
}


def sample(cls: type[tsq.Spec]) -> tsq.Spec:
    if cls in SAMPLES:
        return SAMPLES[cls]
    return cls(tsq.Quantizer(3)) if issubclass(cls, tsq.Mechanism) else cls()


def refusal(text: str) -> str:
    with pytest.raises(tsq.SpecError) as caught:
        tsq.parse(text)
    return str(caught.value)


@pytest.mark.parametrize("cls", _CLASSES.values(), ids=lambda c: c.__name__)
def test_fields_are_the_arguments_of_the_parser(cls):
    object_, fields = sample(cls), dataclasses.fields(cls)
    values = [repr(list(v) if isinstance(v := getattr(object_, f.name), tuple) else v) for f in fields]
    by_keyword = ", ".join(f"{f.name}={v}" for f, v in zip(fields, values, strict=True))
    assert tsq.parse(f"{cls.__name__}({by_keyword})") == object_
    assert tsq.parse(f"{cls.__name__}({', '.join(values)})") == object_
    assert _C.canonical(f"{cls.__name__}({by_keyword})") == _C.canonical(f"{cls.__name__}({', '.join(values)})")
    assert f"at most {len(fields)} arguments" in refusal(f"{cls.__name__}({', '.join([*values, '1'])})")
    for skipped, field in enumerate(fields):  # a default in Python is a default in C++, and the same one
        rest = ", ".join(f"{f.name}={v}" for i, (f, v) in enumerate(zip(fields, values, strict=True)) if i != skipped)
        if field.default is dataclasses.MISSING:
            assert field.name in refusal(f"{cls.__name__}({rest})")
        elif (cls in COUNTED and field.name == "k") or (cls, field.name) in REQUIRED:  # required beside the others
            assert "got none" in refusal(f"{cls.__name__}({rest})") or "second= with" in refusal(f"{cls.__name__}({rest})")
        else:
            assert _C.canonical(f"{cls.__name__}({rest})") == repr(dataclasses.replace(object_, **{field.name: field.default}))


def test_the_parser_knows_no_other_names():
    compressors = re.search(r"compressors: ([\w, ]+?)[ ;]?(?:\(|$)", refusal("Zzz()")).group(1).split(", ")
    mechanisms = re.search(r"mechanisms: ([\w, ]+?);", refusal("Zzz()")).group(1).split(", ")
    conditions = re.search(r"conditions: ([\w, ]+?)[ ;]?(?:\(|$)", refusal("Ada3PC([LAG(1), LAG(2)], [Zzz()])")).group(1).split(", ")
    assert sorted(conditions) == sorted(n for n, c in _CLASSES.items() if issubclass(c, tsq.Condition))
    assert sorted(compressors) == sorted(n for n, c in _CLASSES.items() if issubclass(c, tsq.Compressor))
    assert sorted(mechanisms) == sorted(n for n, c in _CLASSES.items() if issubclass(c, tsq.Mechanism))


def test_class_constants():
    assert tsq.Identity().omega(10) == 0 and tsq.Identity().alpha(10) == 1
    unbiased = tsq.Quantizer(4, levels="unbiased")
    assert 0 < unbiased.omega(256) < tsq.Quantizer(3, levels="unbiased").omega(256)
    assert tsq.Quantizer(4, levels="fit").omega(256) is None
    assert 0 < tsq.Quantizer(4, levels="fit").alpha(256) <= 1
    assert tsq.Quantizer(4).omega(256) == unbiased.omega(256)  # None: as Direct reads it
    assert tsq.Quantizer(4).alpha(256) == tsq.Quantizer(4, levels="fit").alpha(256)  # as ErrorFeedback reads it
    omega = tsq.Quantizer(1, levels="unbiased").omega(256)
    assert omega >= 1 and tsq.Quantizer(1, levels="unbiased").alpha(256) == pytest.approx(1 / (1 + omega))


# ------------------------------------------------------------------ what a caller may have at hand


def test_specs_that_mean_different_things_differ():
    assert tsq.Quantizer(2) != tsq.Quantizer(2.0) and tsq.StochasticSparsifier(1) != tsq.StochasticSparsifier(1.0)
    assert len({tsq.ErrorFeedback(tsq.Quantizer(2)), tsq.ErrorFeedback(tsq.Quantizer(2.0))}) == 2


@pytest.mark.parametrize(("one", "two"), [
    (tsq.LAG(1), tsq.LAG(1.0)), (tsq.TopK(ratio=1), tsq.TopK(ratio=1.0)), (tsq.MARINA(tsq.Natural(), 1), tsq.MARINA(tsq.Natural(), 1.0)),
    (tsq.TopK(k=np.int64(5)), tsq.TopK(k=5)), (tsq.TopK(np.float64(0.1)), tsq.TopK(0.1)), (tsq.LAG(np.float32(0.5)), tsq.LAG(0.5)),
    (tsq.Cast(torch.float16), tsq.Cast("fp16")), (tsq.Cast(torch.bfloat16), tsq.Cast("bf16")),
    (tsq.TopK(k=3, value_dtype=torch.float16), tsq.TopK(k=3, value_dtype="fp16")), (tsq.SparseSign(10), tsq.SparseSign(k=10)),
    (tsq.AdaCGD(t for t in [tsq.TopK(k=3)]), tsq.AdaCGD([tsq.TopK(k=3)])),
], ids=repr)
def test_one_meaning_has_one_text(one, two):
    assert one == two and hash(one) == hash(two) and repr(one) == repr(two) and tsq.parse(repr(one)) == one


@pytest.mark.parametrize(("make", "error", "says"), [
    (lambda: tsq.TopK(float("nan")), tsq.SpecError, "TopK: ratio: expected a finite number, got nan"),
    (lambda: tsq.LAG(float("inf")), tsq.SpecError, "LAG: zeta: expected a finite number, got inf"),
    (lambda: tsq.ErrorFeedback(tsq.TopK), TypeError, "ErrorFeedback: compressor: expected .*, got type"),
    (lambda: tsq.Bernoulli(torch.tensor(0.5)), TypeError, "Bernoulli: p: expected .*, got Tensor"),
    (lambda: tsq.AdaCGD(3), TypeError, "AdaCGD: ladder: expected a list, got 3"),
    (lambda: tsq.AdaCGD(tsq.TopK(k=3)), tsq.SpecError, "AdaCGD: ladder: expected a list"),
    (lambda: tsq.Cast(torch.int32), tsq.SpecError, "Cast: dtype: expected .*, got 'torch.int32'"),
])
def test_what_has_no_text_is_refused_by_name(make, error, says):
    with pytest.raises(error, match=f"^{says}"):
        make()


def test_errors_name_the_argument_and_show_whole_characters():
    with pytest.raises(tsq.SpecError, match=r"^spec: expected '\(' after the name 'foo'"):
        tsq.Sender("foo", 10)
    with pytest.raises(tsq.SpecError, match=r"found 'é' \(column 12\)"):
        tsq.parse("TopK(ratio=é)")
    with pytest.raises(tsq.SpecError) as caught:
        tsq.parse("Cast('é', 'ü', 3)")
    assert "(column 11)" in str(caught.value) and str(caught.value).split("\n")[-1] == " " * 12 + "^"
