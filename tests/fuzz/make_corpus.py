"""Seeds for codec_fuzz from the golden messages: python tests/fuzz/make_corpus.py DIRECTORY. One folder per codec, named by its
number; prints the numbers."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def sections(message: bytes) -> list[tuple[int, bytes]]:
    """Codec and seed of every section: the entry that codec_fuzz reads, then the payload."""
    out = []
    (count,) = struct.unpack_from("<I", message, 8)
    at = 32 + 24 * count
    for i in range(count):
        codec, flags, bits, variant, block, numel, length = struct.unpack_from("<4BIQQ", message, 32 + 24 * i)
        entry = struct.pack("<4BIB3xI", codec, flags, bits, variant, block, message[6], numel)
        out.append((codec, entry + message[at:at + length]))
        at += length
    return out


def main() -> None:
    target, codecs = Path(sys.argv[1]), set()
    for file in sorted(GOLDEN.glob("*.bin")):
        for i, (codec, seed) in enumerate(sections(file.read_bytes())):
            folder = target / str(codec)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{file.stem}_{i}").write_bytes(seed)
            codecs.add(codec)
    print(*sorted(codecs))


if __name__ == "__main__":
    main()
