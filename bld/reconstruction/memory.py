"""How much memory a computation takes, found out on a small one."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

# Their kernels copy what they read and write into an order of their own.
CONVOLUTIONS = torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default


class PeakBytes(TorchDispatchMode):
    """Inside, `peak` is the most bytes that tensors made inside, and the copies that kernels make of them, held at once."""

    def __init__(self) -> None:
        super().__init__()
        self.live, self.peak, self.seen = 0, 0, weakref.WeakSet()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: tuple = (), keywords: dict | None = None) -> Any:
        before = {id(t.untyped_storage()) for t in tree_iter((arguments, keywords)) if isinstance(t, Tensor)}
        result = function(*arguments, **(keywords or {}))
        for t in tree_iter(result):
            if isinstance(t, Tensor) and id(t.untyped_storage()) not in before:
                self.count(t.untyped_storage())
        if function in CONVOLUTIONS:
            copies = sum(t.nbytes for t in tree_iter((arguments, keywords, result)) if isinstance(t, Tensor))
            self.peak = max(self.peak, self.live + copies)
        return result

    def count(self, storage: torch.UntypedStorage) -> None:
        """Counts a storage until it goes."""
        if storage in self.seen:
            return
        self.seen.add(storage)
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self.forget, size)

    def forget(self, size: int) -> None:
        """A storage of this size is gone."""
        self.live -= size


def peak_bytes(compute: Callable[[], object]) -> int:
    """Of everything that `compute` makes, what it returns included."""
    with PeakBytes() as counted:
        compute()
    return counted.peak
