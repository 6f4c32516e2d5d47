"""Every codec of wire format version 1 in plain torch: the oracle that the C++ and CUDA code is tested against.

Written from docs/wire_format.md alone and meant to be read beside it. Works where the package's extension is not built.
A module per family of codecs; each enters its codecs into `wire.CODECS`.

Note [One rounding per operation]: the document fixes fp32 arithmetic, so nothing may be contracted or reordered. Three
habits of torch are avoided on purpose: `scalar / tensor` is a reciprocal and a product (two roundings), `torch.sum` has
its own order of adding, `torch.sqrt` may be a vector library's. A root or quotient in fp64, rounded to fp32, is exact.
"""

from . import cast, codes, dithering, levels, mixed, quantizer, sparse, stepped, subset, uniform_step, values
from .philox import dither, philox4x32, philox_key
from .wire import CODECS, DTYPES, NON_FINITE, Message, Section, build_message, decode, decode_section, encode, parse_message

__all__ = ["CODECS", "DTYPES", "NON_FINITE", "Message", "Section", "build_message", "cast", "codes", "decode", "decode_section", "dither",
           "dithering", "encode", "levels", "mixed", "parse_message", "philox4x32", "philox_key", "quantizer", "sparse", "stepped",
           "subset", "uniform_step", "values"]
