"""Errors at a moment of one's choice, deep inside of what the pack calls."""

from __future__ import annotations

import math

from torch.utils._python_dispatch import TorchDispatchMode


class Crash(RuntimeError):
    """A fault that nobody foresaw."""


class Fault(TorchDispatchMode):
    """Counts the gradients of convolutions, and fails in so many from one of them on. number: of that one, from 0; none: it only counts."""

    def __init__(self, number: int | None = None, error: type[Exception] = Crash, times: float = math.inf) -> None:
        super().__init__()
        self.number, self.error, self.left, self.count = number, error, times, 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        if "convolution_backward" in str(function):
            self.count += 1
            if self.number is not None and self.count > self.number and self.left > 0:
                self.left -= 1
                raise self.error("inside backward")
        return function(*arguments, **(keywords or {}))
