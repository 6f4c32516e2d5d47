"""Damaged messages, for the compiled decoder beside the reference's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
import torch

import torch_smoothquant as tsq
from torch_smoothquant import reference


def accepted(message: torch.Tensor, places: Iterable[int], masks: Iterable[int],
             match: str | None = None) -> Iterator[tuple[tuple[int, int], torch.Tensor, torch.Tensor]]:
    """((place, mask), the reference's values, the compiled decoder's) of each flip that is still a message.

    What the reference rejects the compiled decoder must reject, with ``match`` in its error.
    """
    masks = tuple(masks)
    for at in places:
        for mask in masks:
            changed = message.clone()
            changed[at] ^= mask
            try:
                expected = reference.decode(changed)
            except ValueError:
                with pytest.raises(tsq.WireError, match=match):
                    tsq.decode(changed)
            else:
                yield (at, mask), expected, tsq.decode(changed)
