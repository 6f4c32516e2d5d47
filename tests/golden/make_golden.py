"""Writes the golden messages (*.bin) and manifest.json beside this file, from the reference and nothing else.

    python tests/golden/make_golden.py            writes them
    python tests/golden/make_golden.py --check    fails if a file differs from what would be written

One manifest entry is one message. `sections` lists, in table order, what was encoded: codec, input, arguments of
`reference.quantize`; `whole` if the section has this flag; of codec "nothing" the numel alone. `message_sha256` is of the
file; `values_sha256` of the fp32 values of the sections (what the block quantizer defines, raw elements converted);
`decoded_sha256` of the same in the header's dtype (what `decode` returns). Both are taken of the little-endian elements,
in order, every NaN as the positive quiet NaN without payload.

Inputs (`make_input`) are integer arithmetic, exact in float64 and then rounded once to the message's dtype:

* sum4: element i is (f0 + f1 + f2 + f3 - 131070) * 2^(exponent - ramp * floor(i / 64)), where f0..f3 are the 16-bit
  fields, low first, of mix(2^32 * salt + i) with mix as in docs/wire_format.md; float64 adds f0 * 2^-30 to the sum;
  0 instead if i is not a multiple of `every`.
* runs: a list of [count, bit pattern in hexadecimal] of elements of the message's dtype.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

HERE = Path(__file__).resolve().parent


def load(name: str) -> ModuleType:
    """A module of torch_smoothquant without the package's __init__: works where the extension is not built."""
    package = ModuleType("torch_smoothquant_references")
    package.__path__ = [str(HERE.parents[1] / "torch_smoothquant")]
    sys.modules.setdefault(package.__name__, package)
    return importlib.import_module(f"{package.__name__}.{name}")


reference = load("reference")


def _mix(z: int) -> int:
    mask = (1 << 64) - 1
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & mask
    return z ^ z >> 31


def make_input(description: dict[str, Any], dtype: torch.dtype) -> Tensor:
    """The input that a manifest's description stands for: 1-D tensor of dtype."""
    if "runs" in description:
        data = b"".join(bytes.fromhex(pattern)[::-1] * count for count, pattern in description["runs"])
        return torch.frombuffer(bytearray(data), dtype=dtype).clone()
    values = []
    for i in range(description["numel"]):
        h = _mix((description["salt"] << 32) + i)
        v = float(sum(h >> shift & 0xFFFF for shift in (0, 16, 32, 48)) - 131070)
        if dtype == torch.float64:
            v += (h & 0xFFFF) * 2.0**-30
        scale = 2.0 ** (description["exponent"] - description.get("ramp", 0) * (i // 64))
        values.append(v * scale if i % description.get("every", 1) == 0 else 0.0)
    exact = torch.tensor(values, dtype=torch.float64)
    return exact if dtype == torch.float64 else exact.to(torch.float32).to(dtype)  # fp32 holds the sums exactly


def encode(x: Tensor, entry: dict[str, Any], section: dict[str, Any]) -> Any:
    """One section as a message of its own, parsed."""
    arguments = {f"{name}_": value for name, value in section["arguments"].items()}
    message = reference.encode(x, section["codec"], entry["seed"], entry["step"], entry["rank"], entry.get("world_size", 1), **arguments)
    return reference.parse_message(message)


def build(entry: dict[str, Any]) -> Tensor:
    """The message of a manifest entry, by the reference."""
    dtype = getattr(torch, entry["dtype"])
    sections = []
    for s in entry["sections"]:
        if s["codec"] == "nothing":
            sections.append(reference.Section(reference.codes.NOTHING, 0, 0, 0, 0, s["numel"], 0, torch.empty(0, dtype=torch.uint8)))
            continue
        x = make_input(s["input"], dtype)
        if "arguments" in s:
            (section,) = encode(x, entry, s).sections
            sections.append(replace(section, flags=section.flags | (reference.wire.WHOLE if s.get("whole") else 0)))
            continue
        payload = reference.quantizer.quantize(
            x, s["bits"], s["block"], s["levels"], s["rounding"], entry["seed"], entry["step"], entry["rank"],
            parameter=s["parameter"], averaged=bool(entry["kind"]), shrink=s["shrink"], offset=s["offset"],
            scale_dtype=s.get("scale_dtype"))
        flags = int(not bool(x.to(torch.float32).isfinite().all()))
        variant = reference.quantizer.variant_of(s["levels"], s.get("scale_dtype"))
        sections.append(reference.Section(reference.quantizer.QUANTIZER, flags, s["bits"], variant, s["block"], x.numel(),
                                          payload.numel(), payload))
    return reference.build_message(sections, dtype, entry["kind"], entry["rank"], entry["step"])


def encode_makes(entry: dict[str, Any]) -> bool:
    """Whether the message is one that encode makes: a worker's, of one section."""
    return entry["kind"] == 0 and len(entry["sections"]) == 1


def values_of(message: Tensor) -> Tensor:
    """fp32 values of all sections of a message."""
    parsed = reference.parse_message(message)
    return torch.cat([reference.decode_section(s, parsed.dtype).to(torch.float32) for s in parsed.sections])


def digest(x: Tensor) -> str:
    """sha256 of the elements' bytes, every NaN as the positive quiet NaN without payload."""
    if x.is_floating_point():
        x = torch.where(x.isnan(), torch.full_like(x, float("nan")), x)
    return hashlib.sha256(bytes(x.contiguous().view(torch.uint8).tolist())).hexdigest()


def fnv1a(x: Tensor) -> str:
    """FNV-1a (64 bits) of fp32 values, every NaN as in digest, every zero positive: what a test without sha256 compares."""
    x = torch.where(x.isnan(), torch.full_like(x, float("nan")), x) + 0.0
    h = 0xCBF29CE484222325
    for byte in x.contiguous().view(torch.uint8).tolist():
        h = (h ^ byte) * 0x100000001B3 & (1 << 64) - 1
    return f"{h:016x}"


def _call(name: str, arguments: dict[str, Any]) -> str:
    """The spec; an argument that is a dictionary is a quantizer's."""
    shown = {key: _call("Quantizer", value) if isinstance(value, dict) else repr(value) for key, value in arguments.items()}
    return f"{name}({', '.join(f'{key}={value}' for key, value in shown.items())})"


def index_line(entry: dict[str, Any], message: Tensor) -> str:
    """For tests/cpp/golden_test.cpp, tab-separated: file, numel, dtype, FNV-1a of the values, spec or "-" if the message is not
    one that encode makes, seed, step, rank, input, and the world size if it is not 1."""
    first = entry["sections"][0]
    spec, given = "-", "-"
    if encode_makes(entry):
        names = ("bits", "block", "levels", "rounding", "scale_dtype")
        arguments = first.get("arguments", {name: first[name] for name in names if name in first})
        name = first["codec"] if "arguments" in first else "Quantizer"
        spec = _call(name, arguments)
        x = first["input"]
        if "runs" in x:
            given = " ".join(["runs", *(f"{count} {pattern}" for count, pattern in x["runs"])])
        else:
            given = f"sum4 {x['salt']} {x['exponent']} {x.get('ramp', 0)} {x.get('every', 1)}"
    values = reference.decode(message).to(torch.float32)
    fields = [entry["file"], values.numel(), entry["dtype"], fnv1a(values), spec, entry["seed"], entry["step"], entry["rank"], given]
    fields += [entry["world_size"]] if "world_size" in entry else []
    return "\t".join(map(str, fields))


def _sum4(numel: int, salt: int, exponent: int = -18, **more: int) -> dict[str, Any]:
    return {"numel": numel, "salt": salt, "exponent": exponent, **more}


def _raw(description: dict[str, Any]) -> dict[str, Any]:
    return _coded("Identity", description)


def _coded(codec: str, description: dict[str, Any], **arguments: Any) -> dict[str, Any]:
    """codec, arguments: the compressor as in spec.py."""
    return {"codec": codec, "input": description, "arguments": arguments}


def _quantized(description: dict[str, Any], bits: int, levels: str, block: int = 256, rounding: str | None = None,
               parameter: int = 0, offset: int = 0, shrink: float = 1.0, **more: str) -> dict[str, Any]:
    """more: scale_dtype, if it is not None."""
    rounding = rounding or ("stochastic" if levels == "unbiased" else "nearest")
    return {"codec": "quantizer", "input": description, "bits": bits, "block": block, "levels": levels,
            "rounding": rounding, "parameter": parameter, "offset": offset, "shrink": shrink, **more}


def _entry(name: str, *sections: dict[str, Any], dtype: str = "float32", kind: int = 0, rank: int = 0, step: int = 0,
           seed: int = 0, **more: int) -> dict[str, Any]:
    """more: world_size, if it is not 1."""
    return {"file": f"{name}.bin", "dtype": dtype, "kind": kind, "rank": rank, "step": step, "seed": seed, **more,
            "sections": list(sections)}


# One block of 32 each: zeros of both signs, denormals, just below 2^-118, 2^-118, just below 2^120, 2^120, the largest.
EDGES = {"runs": [[16, "00000000"], [16, "80000000"], [31, "00000001"], [1, "807fffff"], [30, "01000000"],
                  [2, "847fffff"], [20, "00000001"], [11, "04000000"], [1, "84800000"], [20, "7a123456"],
                  [12, "fb7fffff"], [20, "7b000000"], [12, "fb800000"], [10, "7f7fffff"], [10, "ff7fffff"],
                  [12, "7e2aaaab"]]}

# The same for 16-bit scales: also just below 2^-102, 2^-102, and numbers next to those of bfloat16.
SHORT_EDGES = {"runs": [*EDGES["runs"], [31, "00000001"], [1, "0c7fffff"], [31, "04000000"], [1, "8c800000"], [16, "3f800001"],
                        [16, "bf7fffff"], [20, "3f808000"], [12, "3e000000"], [20, "bf810000"], [12, "3f000001"], [7, "3f81ffff"]]}

ENTRIES = [
    *(_entry(f"unbiased_{b}", _quantized(_sum4(1000, b), b, "unbiased"), seed=b, step=3 * b, rank=b % 3)
      for b in range(1, 9)),
    _entry("fit_1", _quantized(_sum4(1000, 11), 1, "fit")),
    _entry("fit_2_block32", _quantized(_sum4(1000, 12), 2, "fit", 32)),
    _entry("fit_3_fp16", _quantized(_sum4(1000, 13), 3, "fit"), dtype="float16"),
    _entry("fit_4_block1024", _quantized(_sum4(2500, 14), 4, "fit", 1024)),
    _entry("fit_5_fp64", _quantized(_sum4(1000, 15), 5, "fit"), dtype="float64"),
    _entry("fit_6_bf16", _quantized(_sum4(1000, 16), 6, "fit"), dtype="bfloat16"),
    _entry("fit_7_ramp", _quantized(_sum4(1000, 17, ramp=2), 7, "fit")),
    _entry("fit_8_block32", _quantized(_sum4(1000, 18), 8, "fit", 32)),
    _entry("fit_2_sparse", _quantized(_sum4(2000, 19, every=20), 2, "fit")),
    _entry("fit_3_edges", _quantized(EDGES, 3, "fit", 32)),
    _entry("fit_1_edges", _quantized(EDGES, 1, "fit", 32)),
    _entry("unbiased_6_edges", _quantized(EDGES, 6, "unbiased", 32)),
    _entry("unbiased_4_block32", _quantized(_sum4(4095, 20), 4, "unbiased", 32)),
    _entry("unbiased_3_block1024_fp64", _quantized(_sum4(4097, 21), 3, "unbiased", 1024), dtype="float64"),
    _entry("unbiased_2_block4096_fp16", _quantized(_sum4(4500, 22), 2, "unbiased", 4096), dtype="float16"),
    _entry("unbiased_4_bf16", _quantized(_sum4(257, 23), 4, "unbiased"), dtype="bfloat16"),
    _entry("unbiased_4_nearest", _quantized(_sum4(600, 24), 4, "unbiased", rounding="nearest")),
    _entry("unbiased_1_nearest", _quantized(_sum4(600, 25), 1, "unbiased", 32, rounding="nearest")),
    _entry("unbiased_4_numel0", _quantized(_sum4(0, 26), 4, "unbiased")),
    _entry("fit_4_numel1", _quantized(_sum4(1, 27), 4, "fit")),
    _entry("unbiased_5_numel33", _quantized(_sum4(33, 28), 5, "unbiased", 32)),
    _entry("unbiased_4_wide_key", _quantized(_sum4(300, 29), 4, "unbiased"), seed=2**64 - 3, step=2**40 + 1,
           rank=2**32 - 1),
    _entry("non_finite_fp16", _quantized({"runs": [[299, "3c00"], [1, "fc00"]]}, 4, "fit"), dtype="float16"),
    _entry("raw_fp32", _raw({"runs": [[3, "3f800000"], [1, "7f800000"], [1, "ff800000"], [1, "7fc00000"],
                                      [1, "80000000"], [1, "00000001"]]}), rank=1),
    _entry("raw_bf16", _raw(_sum4(101, 30)), dtype="bfloat16"),
    _entry("sign", _coded("Sign", _sum4(1000, 40))),
    _entry("sign_block32_fp16", _coded("Sign", _sum4(333, 41, every=3), block=32), dtype="float16", rank=1, step=2),
    _entry("sign_block1024_fp64", _coded("Sign", _sum4(2500, 42), block=1024), dtype="float64"),
    _entry("sign_edges", _coded("Sign", EDGES, block=32)),
    _entry("sign_numel1_bf16", _coded("Sign", _sum4(1, 43)), dtype="bfloat16"),
    _entry("ternary", _coded("Ternary", _sum4(1000, 44)), seed=5, step=6, rank=2),
    _entry("ternary_block32_bf16", _coded("Ternary", _sum4(333, 45), block=32), dtype="bfloat16"),
    _entry("ternary_block4096_fp64", _coded("Ternary", _sum4(4500, 46), block=4096), dtype="float64"),
    _entry("ternary_edges", _coded("Ternary", EDGES, block=32)),
    _entry("topk_1_percent", _coded("TopK", _sum4(20000, 40), ratio=0.01)),
    _entry("topk_10_percent_bf16", _coded("TopK", _sum4(4000, 41, ramp=1), ratio=0.1), dtype="bfloat16"),
    _entry("topk_half_fp16", _coded("TopK", _sum4(1000, 42), ratio=0.5), dtype="float16"),  # a bitmap
    _entry("topk_20_fp64", _coded("TopK", _sum4(17000, 43), k=20), dtype="float64"),
    _entry("topk_ties", _coded("TopK", {"runs": [[700, "3f800000"], [700, "bf800000"], [1, "40000000"]]}, k=50)),
    _entry("topk_denormals", _coded("TopK", {"runs": [[100, "00000000"], [3, "00000001"], [100, "80000000"], [1, "80000002"]]}, k=9)),
    _entry("topk_numel0", _coded("TopK", _sum4(0, 44), ratio=0.01)),
    _entry("topk_numel1", _coded("TopK", _sum4(1, 45), ratio=0.01)),
    _entry("topk_non_finite", _coded("TopK", {"runs": [[299, "3f800000"], [1, "7fc00000"]]}, k=5)),
    _entry("natural", _coded("Natural", _sum4(1000, 47)), seed=9, step=1, rank=1),
    _entry("natural_sparse_fp16", _coded("Natural", _sum4(300, 48, every=3)), dtype="float16"),
    _entry("natural_ramp_fp64", _coded("Natural", _sum4(2049, 49, ramp=3)), dtype="float64"),
    _entry("natural_edges", _coded("Natural", {"runs": [
        [16, "00000000"], [16, "80000000"], [16, "807fffff"], [16, "00800000"], [16, "80ffffff"], [16, "3f800000"],
        [32, "bfc00000"], [32, "3faaaaab"], [32, "7effffff"], [32, "fe800000"], [33, "3fffffff"]]})),
    _entry("natural_limit", _coded("Natural", {"runs": [[9, "3f800000"], [1, "ff000000"]]})),
    _entry("natural_numel0_bf16", _coded("Natural", _sum4(0, 50)), dtype="bfloat16"),
    _entry("topk_values_fp16", _coded("TopK", _sum4(700, 60, 0), ratio=0.1, value_dtype="fp16")),
    _entry("topk_values_bf16_fp64", _coded("TopK", _sum4(700, 61), k=30, value_dtype="bf16"), dtype="float64"),
    _entry("topk_values_4_bits", _coded("TopK", _sum4(2000, 62), ratio=0.1, value_dtype={"bits": 4, "block": 32}), rank=1),
    _entry("topk_values_fit_fp16", _coded("TopK", _sum4(900, 63), k=300, value_dtype={"bits": 2, "levels": "fit"}), dtype="float16"),
    _entry("randk", _coded("RandK", _sum4(2000, 64), ratio=0.05), seed=3, step=4, rank=2),
    _entry("randk_shared_most_bf16", _coded("RandK", _sum4(1001, 65), k=800, shared=True), dtype="bfloat16", rank=7),
    _entry("randk_half", _coded("RandK", _sum4(400, 80), ratio=0.5), step=5),
    _entry("randk_values_fp64", _coded("RandK", _sum4(600, 66), k=100, value_dtype={"bits": 3, "block": 64}), dtype="float64"),
    _entry("randk_non_finite", _coded("RandK", {"runs": [[299, "3f800000"], [1, "7fc00000"]]}, k=5)),
    _entry("randk_numel0", _coded("RandK", _sum4(0, 67), ratio=0.1)),
    _entry("permk", _coded("PermK", _sum4(1002, 68)), seed=1, step=2, rank=3, world_size=4),
    _entry("permk_values_fp16", _coded("PermK", _sum4(100, 69, 0), value_dtype="fp16"), dtype="float16", rank=8, world_size=9),
    _entry("permk_world1_fp64", _coded("PermK", _sum4(33, 70)), dtype="float64"),
    _entry("bernoulli", _coded("Bernoulli", _sum4(3000, 71), p=0.05), seed=8, step=1, rank=1),
    _entry("bernoulli_all_fp16", _coded("Bernoulli", _sum4(300, 72, every=3), p=1.0), dtype="float16"),
    _entry("bernoulli_values", _coded("Bernoulli", _sum4(3000, 73), p=0.125, value_dtype={"bits": 4}), dtype="float64"),
    _entry("stochastic", _coded("StochasticSparsifier", _sum4(3000, 74, ramp=1), budget=100), seed=9, step=3, rank=2),
    _entry("stochastic_share_bf16", _coded("StochasticSparsifier", _sum4(2000, 75), budget=0.1), dtype="bfloat16"),
    _entry("stochastic_values_fp64", _coded("StochasticSparsifier", _sum4(1500, 76, ramp=3), budget=0.2, value_dtype={"bits": 5}),
           dtype="float64"),
    _entry("stochastic_fits", _coded("StochasticSparsifier", _sum4(500, 77, every=50), budget=10)),
    _entry("stochastic_limit", _coded("StochasticSparsifier", {"runs": [[3, "3ff0000000000000"], [1, "7de0000000000000"]]}, budget=1),
           dtype="float64"),
    _entry("sparse_sign", _coded("SparseSign", _sum4(3000, 78), ratio=0.05)),
    _entry("sparse_sign_fp16", _coded("SparseSign", _sum4(333, 79), k=13), dtype="float16"),
    _entry("sparse_sign_zero", _coded("SparseSign", {"runs": [[100, "80000000"]]}, k=3)),
    _entry("dithering_sparse", _coded("Dithering", _sum4(20000, 51), levels=4), seed=3, step=2, rank=1),  # Elias
    _entry("dithering_packed", _coded("Dithering", _sum4(700, 52), levels=100, norm="inf"), step=1),
    _entry("dithering_16_bits_fp64", _coded("Dithering", _sum4(300, 53, ramp=2), levels=32767, norm="inf", block=64), dtype="float64"),
    _entry("dithering_block32_bf16", _coded("Dithering", _sum4(333, 54, every=3), levels=3, block=32), dtype="bfloat16"),
    _entry("dithering_block1024_fp16", _coded("Dithering", _sum4(2500, 55), levels=20, block=1024), dtype="float16", rank=3),
    _entry("dithering_two_segments", _coded("Dithering", _sum4(65600, 56, every=41), levels=20), rank=1),
    _entry("dithering_edges", _coded("Dithering", EDGES, levels=5, block=32)),
    _entry("dithering_edges_inf", _coded("Dithering", EDGES, levels=300, norm="inf", block=32)),
    _entry("dithering_numel0", _coded("Dithering", _sum4(0, 57), levels=5)),
    _entry("dithering_numel1", _coded("Dithering", _sum4(1, 58), levels=5)),
    _entry("dithering_non_finite", _coded("Dithering", {"runs": [[299, "3f800000"], [1, "7fc00000"]]}, levels=5, block=128)),
    _entry("natural_dithering", _coded("NaturalDithering", _sum4(3000, 59), levels=8), seed=1, rank=2),
    _entry("natural_dithering_30_fp64", _coded("NaturalDithering", _sum4(700, 60, ramp=4), levels=30, norm="inf"), dtype="float64"),
    _entry("natural_dithering_block64_fp16", _coded("NaturalDithering", _sum4(333, 61), levels=4, block=64), dtype="float16"),
    _entry("natural_dithering_edges", _coded("NaturalDithering", EDGES, levels=6, norm="inf", block=32)),
    _entry("cast_fp16", _coded("Cast", _sum4(500, 62, ramp=4), dtype="fp16")),
    _entry("cast_fp16_edges", _coded("Cast", EDGES, dtype="fp16")),
    _entry("cast_bf16_fp64", _coded("Cast", _sum4(300, 63), dtype="bf16"), dtype="float64"),
    _entry("cast_bf16_edges", _coded("Cast", EDGES, dtype="bf16")),
    _entry("cast_fp8", _coded("Cast", _sum4(1000, 64, ramp=3), dtype="fp8")),
    _entry("cast_fp8_edges", _coded("Cast", EDGES, dtype="fp8")),
    _entry("cast_fp8_e5m2_bf16", _coded("Cast", _sum4(700, 65, ramp=2), dtype="fp8_e5m2"), dtype="bfloat16"),
    _entry("cast_non_finite", _coded("Cast", {"runs": [[299, "3f800000"], [1, "ff800000"]]}, dtype="fp8")),
    _entry("uniform_1_bit", _coded("UniformStep", _sum4(9000, 51), bits=1.0), seed=4, step=2, rank=1),
    _entry("uniform_2_bits_nearest", _coded("UniformStep", _sum4(3000, 52, ramp=1), bits=2.0, rounding="nearest")),
    _entry("uniform_two_segments", _coded("UniformStep", _sum4(70001, 53, every=3), bits=0.3, rounding="nearest")),
    _entry("uniform_fp64", _coded("UniformStep", _sum4(8192, 54), bits=0.5), dtype="float64", step=3),
    _entry("uniform_bf16", _coded("UniformStep", _sum4(500, 55), bits=3.0, rounding="nearest"), dtype="bfloat16"),
    _entry("uniform_step_fp16", _coded("UniformStep", _sum4(1001, 56), step=0.01), dtype="float16"),
    _entry("uniform_one_symbol", _coded("UniformStep", {"runs": [[300, "3f800000"], [3, "bf800000"]]}, step=1.0, rounding="nearest")),
    _entry("uniform_edges", _coded("UniformStep", {"runs": [
        [7, "00000000"], [3, "80000000"], [5, "807fffff"], [1, "3f000000"], [1, "bf000001"], [2, "3fc00000"], [2, "41780000"],
        [1, "c17c0000"], [1, "46fffe00"], [1, "c7000000"], [1, "7f7fffff"]]}, step=1.0, rounding="nearest")),
    _entry("uniform_zeros", _coded("UniformStep", {"runs": [[300, "80000000"]]}, bits=1.0)),
    _entry("uniform_numel0", _coded("UniformStep", _sum4(0, 57), bits=1.0)),
    _entry("uniform_numel1", _coded("UniformStep", _sum4(1, 58), bits=1.0, rounding="nearest")),
    _entry("uniform_non_finite", _coded("UniformStep", {"runs": [[299, "3f800000"], [1, "7fc00000"]]}, bits=1.0)),
    *(_entry(f"short_scales_{levels}_{b}", _quantized(_sum4(700, 70 + b), b, levels, 32 if b % 2 else 64, scale_dtype="bf16"), seed=b)
      for levels in ("unbiased", "fit") for b in (1, 2, 4, 8)),
    _entry("short_scales_nearest_fp64", _quantized(_sum4(1300, 80), 3, "unbiased", 1024, "nearest", scale_dtype="bf16"), dtype="float64"),
    *(_entry(f"short_scales_edges_{levels}_{b}", _quantized(SHORT_EDGES, b, levels, 32, scale_dtype="bf16"), seed=b)
      for levels in ("unbiased", "fit") for b in (1, 2, 7)),
    _entry("short_scales_shrunk", _quantized(_sum4(300, 81), 2, "unbiased", 64, shrink=0.3, scale_dtype="bf16"), kind=1, rank=1),
    _entry("short_scales_non_finite", _quantized({"runs": [[299, "3f800000"], [1, "ff800000"]]}, 4, "fit", 32, scale_dtype="bf16")),
    _entry("short_scales_sign", _coded("Sign", _sum4(777, 82, every=3), block=32, scale_dtype="bf16")),
    _entry("short_scales_sign_edges", _coded("Sign", SHORT_EDGES, block=32, scale_dtype="bf16")),
    _entry("short_scales_ternary_bf16", _coded("Ternary", _sum4(777, 83), block=64, scale_dtype="bf16"), dtype="bfloat16", step=3),
    _entry("short_scales_topk", _coded("TopK", _sum4(3000, 84), ratio=0.1, value_dtype={"bits": 4, "block": 32, "scale_dtype": "bf16"})),
    _entry("mixed_2_5", _coded("Quantizer", _sum4(9 * 1024 + 300, 90), bits=2.5), seed=6, step=1, rank=2),
    _entry("mixed_ramp_fp64", _coded("Quantizer", _sum4(4 * 1024, 91, ramp=1), bits=3.0, block=64), dtype="float64", rank=1),
    _entry("mixed_fit_bf16", _coded("Quantizer", _sum4(5 * 1024 + 1, 92, ramp=-1), bits=1.7, levels="fit", scale_dtype="bf16"),
           dtype="bfloat16"),
    _entry("mixed_block4096_fp16", _coded("Quantizer", _sum4(8192 + 33, 93, every=7), bits=2.0, block=4096, levels="fit"), dtype="float16"),
    _entry("mixed_zero_runs", _coded("Quantizer", {"runs": [[2048, "00000000"], [1024, "3f800000"], [1024, "00000001"]]}, bits=1.5)),
    _entry("mixed_numel0", _coded("Quantizer", _sum4(0, 94), bits=2.5)),
    _entry("mixed_numel1", _coded("Quantizer", _sum4(1, 95), bits=7.9, levels="fit")),
    _entry("mixed_non_finite", _coded("Quantizer", {"runs": [[1500, "3f800000"], [1, "7f800000"]]}, bits=2.5)),
    _entry("average", _raw(_sum4(33, 31)), _quantized(_sum4(700, 32), 4, "unbiased", parameter=5, offset=512),
           _quantized(_sum4(40, 33), 3, "unbiased", 32, parameter=2**33, offset=2**37, shrink=0.3),
           _quantized({"runs": [[4, "3f800000"], [1, "7fc00000"]]}, 2, "fit", parameter=7),
           _quantized(_sum4(300, 34), 2, "fit", parameter=8), kind=1, rank=3, step=7, seed=42),
    _entry("skipped_and_whole", {"codec": "nothing", "numel": 70}, {**_coded("TopK", _sum4(333, 81), k=9), "whole": True},
           {**_coded("Sign", {"runs": [[4, "3f800000"], [1, "7fc00000"]]}), "whole": True}, {"codec": "nothing", "numel": 0},
           rank=2, step=9),
    _entry("varying_dithering", _coded("VaryingDithering", _sum4(1000, 90), budget=64.0), seed=4, step=2, rank=1),
    _entry("varying_dithering_two", _coded("VaryingDithering", _sum4(777, 91, every=3), ratio=0.5, norm=2), dtype="float64"),
    _entry("varying_dithering_dense", _coded("VaryingDithering", _sum4(300, 92), ratio=1.0), dtype="bfloat16"),
    _entry("varying_dithering_numel0", _coded("VaryingDithering", _sum4(0, 93), ratio=0.1)),
    _entry("varying_dithering_non_finite", _coded("VaryingDithering", {"runs": [[40, "3f800000"], [1, "7f800000"]]}, budget=7.0)),
    _entry("block_dithering", _coded("BlockDithering", _sum4(1001, 94, ramp=1), blocks=7, budget=80.0), rank=2),
    _entry("block_dithering_uniform", _coded("BlockDithering", _sum4(513, 95), blocks=64, ratio=0.75, steps="uniform"), dtype="float16"),
    _entry("block_dithering_short", _coded("BlockDithering", _sum4(999, 96, ramp=2), blocks=9, ratio=0.3, scale_dtype="bf16"), step=5),
    _entry("block_dithering_few", _coded("BlockDithering", _sum4(3, 97), blocks=5, ratio=1.0)),
    _entry("block_dithering_edges", _coded("BlockDithering", EDGES, blocks=16, ratio=1.0)),
    _entry("block_dithering_zeros", _coded("BlockDithering", {"runs": [[70, "80000000"]]}, blocks=3, ratio=0.5, scale_dtype="bf16")),
    _entry("smooth_bernoulli", _coded("SmoothBernoulli", _sum4(3000, 98), ratio=0.05), seed=8, step=1, rank=1),
    _entry("smooth_bernoulli_values", _coded("SmoothBernoulli", _sum4(500, 99), budget=70.0, value_dtype="bf16"), dtype="float64"),
]


def make() -> dict[str, bytes]:
    """File name to contents, the manifest included."""
    files, manifest, index = {}, [], []
    for entry in ENTRIES:
        message = build(entry)
        files[entry["file"]] = bytes(message.tolist())
        index.append(index_line(entry, message))
        manifest.append({**entry, "bytes": message.numel(), "message_sha256": digest(message),
                         "values_sha256": digest(values_of(message)),
                         "decoded_sha256": digest(reference.decode(message))})
    lines = ",\n".join(json.dumps(entry) for entry in manifest)  # one message, one line
    files["manifest.json"] = f"[\n{lines}\n]\n".encode()
    files["index.txt"] = "".join(line + "\n" for line in index).encode()
    return files


if __name__ == "__main__":
    stale = [name for name, data in make().items() if not (HERE / name).exists() or (HERE / name).read_bytes() != data]
    if "--check" in sys.argv[1:]:
        sys.exit(f"stale: {', '.join(stale)}" if stale else 0)
    for name, data in make().items():
        (HERE / name).write_bytes(data)
    print(f"{len(stale)} of {len(make())} files changed")
