"""Figures of an edit: is the background the source's, and does the seam show? The nodes, the automatic method and the benchmarks share them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import kornia.color
import torch
import torch.nn.functional as F
from torch import Tensor

from .edges import Region
from .masks import mask_box

BLOCK = 16
WINDOW = 15
LEVELS = 255
CHUNK = 1 << 20


@dataclass(frozen=True)
class EditFigures:
    """The background's PSNR and that of its worst block in dB, the seam in 8-bit levels, the colour shift's mean and 95th percentile in ΔE00."""

    background_psnr: float
    worst_block: float
    seam: float
    colour_shift: float
    colour_shift_p95: float


def figures(x_hat: Tensor, x: Tensor, m: Tensor) -> EditFigures:
    """All figures over all pictures together; for one each, give one each.

    Args:
        x_hat: (B, 3, H, W) in 0..1.
        x: (B or 1, 3, H, W) in 0..1.
        m: (B or 1, H, W) in 0..1; what counts as background is m = 0. NaN where there is nothing to measure.
    """
    return EditFigures(background_psnr(x_hat, x, m), worst_block(x_hat, x, m), seam(x_hat, x, m), *colour_shift(x_hat, x, m))


def background_psnr(x_hat: Tensor, x: Tensor, m: Tensor) -> float:
    """PSNR in dB of the area that the mask leaves out, against the source; infinite where it is the source exactly.

    Args:
        x_hat: (B, C, H, W) in 0..1.
        x: (B or 1, C, H, W) in 0..1.
        m: (B or 1, H, W) in 0..1; pixels with m = 0 count. NaN where there are none.
    """
    total, count = 0.0, 0
    for i, picture in enumerate(x_hat):
        outside = (m[i % len(m)] == 0).expand_as(picture)
        total += float((picture - x[i % len(x)]).square()[outside].double().sum())
        count += int(outside.sum())
    return psnr(total / count) if count else math.nan


def ring_psnr(x_hat: Tensor, x: Tensor, m: Tensor, width: int) -> float:
    """`background_psnr` of the unmasked pixels at most `width` from the mask; NaN where there are none."""
    return background_psnr(x_hat, x, 1 - Region(m).nearby(width) * (m == 0))


def psnr(mse: float) -> float:
    """In dB, for values in 0..1; infinite for 0."""
    return math.inf if mse == 0 else -10 * math.log10(mse)


def worst_block(x_hat: Tensor, x: Tensor, m: Tensor) -> float:
    """PSNR in dB of the unmasked pixels of the worst 16x16 block: damage in one place, which the whole area's PSNR hides.

    Blocks stand side by side from the top left. One counts if at least a quarter of its 256 pixels lie in the picture and
    have m = 0. Arguments as for `background_psnr`; NaN where no block counts.
    """
    outside = (m == 0).to(x_hat)[:, None].expand(len(x_hat), -1, -1, -1)
    squares = (x_hat - x).square().mean(1, keepdim=True) * outside
    total, count = (F.avg_pool2d(t, BLOCK, ceil_mode=True, divisor_override=1) for t in (squares, outside))
    means = (total / count)[count >= BLOCK**2 / 4]
    return psnr(float(means.max())) if len(means) else math.nan


def seam(x_hat: Tensor, x: Tensor, m: Tensor) -> float:
    """Mean step across the mask's edge beyond the source's own, in 8-bit levels: 0 for the source, about c where a patch lies c levels off.

    At each pair of neighbours that the mask tells apart, the step is the inner less the outer pixel, averaged over all such
    pairs in a window of 15x15: texture, whose steps point both ways, averages out, a seam, whose steps agree, does not.
    Its size, the root mean square over the channels, counts as far as it exceeds that of the source's step at the same
    place: an edge that the source has there is no seam. Pairs weigh by how far the mask tells them apart, so of a soft mask
    the whole ramp is looked at.

    Arguments as for `background_psnr`; NaN where the mask has no edge.
    """
    weight, excess = seam_map(x_hat, x, m)
    total = float(weight.expand_as(excess).double().sum())
    return float((excess * weight).double().sum()) / total if total else math.nan


def seam_map(x_hat: Tensor, x: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """What `seam` is the weighted mean of: the weight of each pixel, more than 0 along the mask's edge, and the seam there in 8-bit levels.

    Arguments as for `seam`. Returns: (B, 1, H, W) each.
    """
    box = (..., *mask_box(edge(m)))
    weight, edit = steps(x_hat[box], m[box])
    excess = LEVELS * (size(edit) - size(steps(x[box], m[box])[1])).clamp(min=0)
    whole = [values.new_zeros(*values.shape[:2], *m.shape[-2:]) for values in (weight, excess)]
    whole[0][box], whole[1][box] = weight, excess
    return whole[0], whole[1]


def edge(m: Tensor) -> Tensor:
    """Whether any of the masks (B, H, W) tells a pixel from one of its neighbours: (H, W) of bool."""
    apart = torch.zeros_like(m[0], dtype=torch.bool)
    for axis in (-2, -1):
        told = m.diff(dim=axis).ne(0).any(0)
        for start in (0, 1):
            apart.narrow(axis, start, told.shape[axis]).logical_or_(told)
    return apart


def flicker(x_hat: Tensor, x: Tensor, m: Tensor) -> Iterator[float]:
    """How much the step across the mask's edge changes from each frame of a video to the next beyond the source's own change, in 8-bit levels.

    0 for the source and for a seam that stays as it is, about c where a patch goes c levels up or down. The step is that of
    `seam`, with its sign and for each channel. Where the mask moves, places count that are near its edge in both frames.

    Args:
        x_hat: (T, C, H, W) in 0..1.
        x: (T or 1, C, H, W) in 0..1.
        m: (T or 1, H, W) in 0..1.

    Yields: a figure for each frame against the one before, so NaN for the first, and where the two masks have no edge in common.
    """
    before = None
    for i, picture in enumerate(x_hat):
        source, mask = (t[i % len(t)][None] for t in (x, m))
        weight, edit = steps(picture[None], mask)
        now = around(weight), edit, steps(source, mask)[1]
        yield math.nan if before is None else change(before, now)
        before = now


def change(before: tuple[Tensor, Tensor, Tensor], now: tuple[Tensor, Tensor, Tensor]) -> float:
    """`flicker` between two frames. Of each: how much edge there is around a pixel, and the mean steps of the edit and of the source."""
    (weight, *steps_before), (weight_now, *steps_now) = before, now
    weight = torch.minimum(weight, weight_now).double()
    edit, source = (size(last - first) for first, last in zip(steps_before, steps_now, strict=True))
    total = float(weight.sum())
    return LEVELS * float(((edit - source).clamp(min=0) * weight).sum()) / total if total else math.nan


def size(step: Tensor) -> Tensor:
    """The root mean square over the channels: (B, C, H, W) -> (B, 1, H, W)."""
    return step.square().mean(1, keepdim=True).sqrt()


def steps(x: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """How far the mask m (B, H, W) tells each pixel from the next, (B, 1, H, W), and the mean step of x (B, C, H, W) there, (B, C, H, W)."""
    weight = m.new_zeros(len(m), 1, *m.shape[-2:])
    step = x.new_zeros(max(len(x), len(m)), *x.shape[1:])
    for axis in (-2, -1):
        apart, inside = m[:, None].diff(dim=axis), x.diff(dim=axis)
        weight.narrow(axis, 0, apart.shape[axis]).add_(apart.abs())
        step.narrow(axis, 0, apart.shape[axis]).add_(inside * apart)
    return weight, around(step) / around(weight).clamp(min=1e-9)


def around(values: Tensor) -> Tensor:
    """The mean over a window of 15x15, zeros beyond the frame: (B, C, H, W) -> (B, C, H, W)."""
    rows = F.avg_pool2d(values, (WINDOW, 1), stride=1, padding=(WINDOW // 2, 0))
    return F.avg_pool2d(rows, (1, WINDOW), stride=1, padding=(0, WINDOW // 2))


def colour_shift(x_hat: Tensor, x: Tensor, m: Tensor) -> tuple[float, float]:
    """Mean and 95th percentile of the CIE ΔE00 between the pixels with m = 0 and the source's; 1 is about what an eye can tell.

    Arguments as for `background_psnr`, with three channels of sRGB; NaN where m leaves nothing out.
    """
    outside = (m == 0).expand(len(x_hat), -1, -1)
    edit, source = (t.expand_as(x_hat).movedim(1, -1)[outside] for t in (x_hat, x))
    if len(edit) == 0:
        return math.nan, math.nan
    # Most methods keep most of the background as it is.
    differences, apart = edit.new_zeros(len(edit)), (edit != source).any(-1)
    parts = zip(edit[apart].split(CHUNK), source[apart].split(CHUNK), strict=True)
    differences[apart] = torch.cat([delta_e(lab(one), lab(other)) for one, other in parts])
    return float(differences.double().mean()), float(differences.kthvalue(math.ceil(0.95 * len(differences))).values)


def lab(rgb: Tensor) -> Tensor:
    """CIE L*a*b* (D65, 2°) of sRGB in 0..1: (N, 3) -> (N, 3)."""
    return kornia.color.rgb_to_lab(rgb.T[:, :, None])[..., 0].T


def delta_e(lab_1: Tensor, lab_2: Tensor) -> Tensor:
    """CIE ΔE00 as Sharma, Wu and Dalal (2005) write it, their numbers at the lines: (..., 3), (..., 3) -> (...)."""
    (l_1, a_1, b_1), (l_2, a_2, b_2) = lab_1.unbind(-1), lab_2.unbind(-1)
    c_mean = (torch.hypot(a_1, b_1) + torch.hypot(a_2, b_2)) / 2  # 2, 3
    g = 0.5 * (1 - (c_mean**7 / (c_mean**7 + 25.0**7)).sqrt())  # 4
    a_1, a_2 = (1 + g) * a_1, (1 + g) * a_2  # 5
    c_1, c_2 = torch.hypot(a_1, b_1), torch.hypot(a_2, b_2)  # 6
    h_1, h_2 = (torch.atan2(b, a).remainder(2 * torch.pi) for a, b in ((a_1, b_1), (a_2, b_2)))  # 7
    turn, grey = h_2 - h_1, c_1 * c_2 == 0
    far = turn.abs() > torch.pi
    h = torch.where(grey, h_1 + h_2, torch.where(far, h_1 + h_2 + 2 * torch.pi, h_1 + h_2) / 2)  # 14, of which 360 degrees are nothing
    turn = torch.where(grey, 0, torch.where(far, turn - 2 * torch.pi * turn.sign(), turn))  # 10
    l, c = (l_1 + l_2) / 2, (c_1 + c_2) / 2  # noqa: E741  12, 13
    d_h = 2 * (c_1 * c_2).sqrt() * torch.sin(turn / 2)  # 11
    degree = torch.pi / 180
    t = 1 - 0.17 * torch.cos(h - 30 * degree) + 0.24 * torch.cos(2 * h) + 0.32 * torch.cos(3 * h + 6 * degree) - 0.2 * torch.cos(4 * h - 63 * degree)  # 15
    theta = 30 * degree * torch.exp(-(((torch.remainder(h / degree, 360) - 275) / 25) ** 2))  # 16
    r_c = 2 * (c**7 / (c**7 + 25.0**7)).sqrt()  # 17
    s_l = 1 + 0.015 * (l - 50) ** 2 / (20 + (l - 50) ** 2).sqrt()  # 18
    s_c, s_h = 1 + 0.045 * c, 1 + 0.015 * c * t  # 19, 20
    d_l, d_c, d_h = (l_2 - l_1) / s_l, (c_2 - c_1) / s_c, d_h / s_h  # 8, 9
    return (d_l**2 + d_c**2 + d_h**2 - torch.sin(2 * theta) * r_c * d_c * d_h).clamp(min=0).sqrt()  # 21, 22
