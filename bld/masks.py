"""Masks: from picture size to latent size, from frames to latent frames, and dilation in latent pixels (paper, sections 3.2 and 3.3)."""

from __future__ import annotations

import math

import numpy as np
import scipy.ndimage
import torch
import torch.nn.functional as F
from torch import Tensor

RESIZE_MODES = ("max", "coverage", "area", "bilinear", "nearest")
SHAPES = ("square", "disk")


def as_encoded(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """The part of a mask that is left in a latent of `size` (h, w): VAE Encode crops a picture in the middle to whole latent pixels.

    A mask (B, H, W) is taken to have the picture's own size where one power of two, as every VAE's ratio is, makes the latent's
    height and width of it, rounded down. Any other mask is a scaled one of the whole latent, and stays.

    Raises ValueError where height to width is not that of the latent, give or take a latent pixel.
    """
    (height, width), (rows, columns) = mask.shape[-2:], size
    if abs(height * columns - width * rows) > max(height, width) + max(rows, columns):
        raise ValueError(
            f"mask is {width}x{height}, whose proportions are not those of the latent, {columns}x{rows}: connect the mask of the encoded picture."
        )
    return cropped(mask, size, 2 ** max(0, int(math.log2(min(height / rows, width / columns)))))


def cropped(picture: Tensor, size: tuple[int, int], ratio: int) -> Tensor:
    """The part of a picture (..., H, W) that is left in a latent of `size` (h, w), whose cells are `ratio` pixels wide.

    VAE Encode crops in the middle what fills no cell. A picture from which another latent comes stays as it is.
    """
    (height, width), (rows, columns) = picture.shape[-2:], size
    if (height // ratio, width // ratio) != (rows, columns):
        return picture
    top, left = height % ratio // 2, width % ratio // 2
    return picture[..., top : top + ratio * rows, left : left + ratio * columns]


def video_frames(count: int, samples: int, frames: int, ratio: int | None) -> tuple[int, int]:
    """How a batch of masks belongs to a video latent, whose first frame is one of the video and each further one `ratio` frames.

    Args:
        count: masks in the batch.
        samples: videos in the latent.
        frames: frames of each in the latent, 2 or more.
        ratio: frames of the video to a latent frame, as 4 or 8; None where only the counts can tell.

    Returns: (sets of masks: 1 or `samples`, masks to each latent frame but the first: 1 or the ratio).

    Raises ValueError where the count is not one a latent frame or one a frame of the video, for all samples or for each.
    """

    def per_frame(masks: int) -> int | None:
        # VAE Encode drops what is left at the end of the video and does not fill a latent frame.
        if masks == frames:
            return 1
        if ratio:
            return ratio if 1 + ratio * (frames - 1) <= masks <= ratio * frames else None
        return (masks - 1) // (frames - 1) if masks > frames and (masks - 1) % (frames - 1) == 0 else None

    readings = {sets: per_frame(count // sets) for sets in sorted({1, samples}) if count % sets == 0}
    readings = {sets: masks for sets, masks in readings.items() if masks}
    if len(readings) == 1 or (readings and ratio):
        return next(iter(readings.items()))
    video = f"{1 + ratio * (frames - 1)} to {ratio * frames} (one per video frame)" if ratio else "one per video frame (then connect vae too)"
    raise ValueError(
        f"mask has {count} frames, but latent has {frames}{f' in each of {samples} samples' if samples > 1 else ''}: "
        f"connect 1 mask, {frames} (one per latent frame) or {video}{', for all samples or for each' if samples > 1 else ''}."
    )


def pool_frames(mask: Tensor, frames: int, ratio: int) -> Tensor:
    """Frames of a video to causal latent frames by the largest value, so that a stroke on a single frame survives.

    Latent frame 0 is mask frame 0, latent frame t is mask frames 1 + (t - 1)·ratio to t·ratio. What comes later is not in the latent.

    Args:
        mask: (B, F, h, w), F >= 1 + ratio·(frames - 1).
        frames: of the latent, T.
        ratio: mask frames to a latent frame, 1 or more.

    Returns: (B, T, h, w).
    """
    first = mask[:, :1].expand(-1, ratio - 1, -1, -1)
    return torch.cat([first, mask], 1)[:, : ratio * frames].unflatten(1, (frames, ratio)).amax(2)


def overlap_weights(pixels: int, cells: int) -> Tensor:
    """The share of each of `cells` equal cells that each of `pixels` pixels covers.

    Returns: (cells, pixels) in float64, rows sum to 1. Exact for every ratio of the two, whole or not.
    """
    ratio = pixels / cells
    left = torch.arange(cells, dtype=torch.float64)[:, None] * ratio
    pixel = torch.arange(pixels, dtype=torch.float64)[None]
    overlap = torch.minimum(left + ratio, pixel + 1) - torch.maximum(left, pixel)
    return overlap.clamp(min=0) / ratio


def spread_frames(latent_mask: Tensor, ratio: int) -> Tensor:
    """The way back from `pool_frames`: each mask frame gets its latent frame. (B, T, h, w) -> (B, 1 + ratio·(T - 1), h, w)."""
    return latent_mask.repeat_interleave(ratio, 1)[:, ratio - 1 :]


def area(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """The painted share of every cell of a grid of `size` (h, w), in 0..1. mask: (B, H, W) -> (B, h, w)."""
    rows = overlap_weights(mask.shape[-2], size[0]).to(mask)
    columns = overlap_weights(mask.shape[-1], size[1]).to(mask)
    return (rows @ mask @ columns.T).clamp(0, 1)


def _enlarged(latent_mask: Tensor, mask: Tensor) -> Tensor:
    """Each pixel of `mask` (B, H, W) gets the value of the cell (B, h, w) that its centre is in."""
    return F.interpolate(latent_mask[:, None], size=mask.shape[-2:], mode="nearest-exact")[:, 0]


def coverage(mask: Tensor, size: tuple[int, int], threshold: float = 0.5) -> Tensor:
    """Cells of a grid of `size` (h, w) from which no paint sticks out by `threshold` of a cell or more.

    A cell is on where its painted share reaches `threshold`, or where paint in it lies that far from every blob: the full cells,
    and the cells around them whose share reaches `threshold`. So the edge of a blob is rounded to the nearest cell, while what no
    full cell fits into, such as strokes and dots, is kept whole.

    Args:
        mask: (B, H, W) in 0..1; a pixel is painted from the value `threshold` up, so that a blurred edge grows no tail.
        threshold: 0..1; 0 is mode `max` of any paint.

    Returns: (B, h, w) of 0 and 1.
    """
    painted = ((mask > 0) & (mask >= threshold)).to(mask)
    shares = area(painted, size)
    # Sums of float32 products: a tie has to count.
    enough = ((shares > 0) & (shares >= threshold - 1e-6)).to(mask)
    full = 1 - F.adaptive_max_pool2d(1 - painted, size)
    blob = torch.minimum(enough, _widen(full, 1, 1))
    reach_y, reach_x = (max(0, math.ceil(threshold * pixels / cells - 1e-6) - 1) for pixels, cells in zip(mask.shape[-2:], size, strict=True))
    near = _widen(_enlarged(blob, mask), reach_y, reach_x)
    return torch.maximum(enough, F.adaptive_max_pool2d(painted * (1 - near), size))


def resize(mask: Tensor, size: tuple[int, int], mode: str = "max", threshold: float = 0.5) -> Tensor:
    """Brings a mask to latent size. The ratio is mask size against `size`, per axis, and need not be whole.

    Args:
        mask: (B, H, W) in 0..1.
        size: (h, w) of the latent.
        mode: `max` a cell takes its largest pixel, so no paint is ever lost; `coverage` see there; `area` the painted share
            itself; `bilinear` torch's, not antialiased, as ComfyUI's core; `nearest` one pixel a cell, at its centre, as PIL
            and the authors' code.
        threshold: 0..1, of mode `coverage` only.

    Returns: (B, h, w) in 0..1.
    """
    match mode:
        case "max":
            return F.adaptive_max_pool2d(mask, size)
        case "coverage":
            # A few at a time, since the masks of a video are many and large.
            return torch.cat([coverage(part, size, threshold) for part in mask.split(8)])
        case "area":
            return area(mask, size)
        case "bilinear":
            return F.interpolate(mask[:, None], size=size, mode="bilinear")[:, 0]
        case "nearest":
            return F.interpolate(mask[:, None], size=size, mode="nearest-exact")[:, 0]
    raise ValueError(f"mode is {mode!r}, but must be one of {', '.join(RESIZE_MODES)}.")


def to_latent(mask: Tensor, size: tuple[int, int], mode: str = "max", threshold: float = 0.5) -> Tensor:
    """A mask of the picture, (B, H, W), for its latent of `size` (h, w): cropped as the picture was, see `as_encoded`, then `resize`."""
    return resize(as_encoded(mask, size), size, mode, threshold)


def kept(mask: Tensor, latent_mask: Tensor) -> Tensor:
    """The painted pixels (> 0) whose cell is on. mask: (B, H, W), latent_mask: (B, h, w). Returns: (B, H, W) of booleans."""
    return (mask > 0) & (_enlarged(latent_mask, mask) > 0)


def thin_parts(mask: Tensor, cell: int, most: int) -> Tensor:
    """A mask without what is thicker than `most` cells of `cell` pixels, see `thickness`: (B, H, W) -> (B, H, W)."""
    cells = resize(mask, (math.ceil(mask.shape[-2] / cell), math.ceil(mask.shape[-1] / cell)))
    return mask * (_enlarged(thickness(cells, most + 1), mask) <= most)


def dropped(mask: Tensor, latent_mask: Tensor) -> tuple[int, int]:
    """What a resize lost: painted pixels (> 0) whose cell is off, and strokes of which no pixel is left.

    A stroke is an 8-connected region of painted pixels. mask: (B, H, W), latent_mask: (B, h, w).

    Returns: (pixels, strokes).
    """
    pixels = strokes = 0
    for one, small in zip(mask.split(1), latent_mask.split(1), strict=True):
        painted, left = one > 0, kept(one, small)
        lost = int((painted & ~left).sum())
        if lost:
            labels, count = scipy.ndimage.label(painted[0].cpu().numpy(), structure=scipy.ndimage.generate_binary_structure(2, 2))
            strokes += count - np.count_nonzero(np.unique(labels[left[0].cpu().numpy()]))
            pixels += lost
    return pixels, int(strokes)


def mask_box(m: Tensor, context: float = 0.0) -> tuple[slice, slice]:
    """Rows and columns of the mask's bounding box, widened by `context` of its longer side, inside the picture.

    m: (H, W); > 0 counts. An empty mask gives the whole picture.
    """
    rows, columns = (torch.nonzero((m > 0).any(dim)).flatten() for dim in (1, 0))
    if len(rows) == 0:
        return slice(None), slice(None)
    ends = [(int(axis[0]), int(axis[-1]) + 1) for axis in (rows, columns)]
    margin = round(context * max(end - start for start, end in ends))
    box = [slice(max(0, start - margin), min(size, end + margin)) for (start, end), size in zip(ends, m.shape, strict=True)]
    return box[0], box[1]


def _widest(mask: Tensor, reach: int, dim: int) -> Tensor:
    """The largest value within `reach` places of each one along `dim`, -1 or -2, of a mask >= 0.

    By doubling: maxima of 1, 2, 4 ... neighbours, so that the cost is that of log2(reach) additions. `max_pool2d` looks at every
    neighbour and is slower on a CPU than reach² shifts of the mask are.
    """
    mask = F.pad(mask, (reach, reach) if dim == -1 else (0, 0, reach, reach))
    seen, width = 1, 2 * reach + 1
    while seen < width:
        step = min(seen, width - seen)
        rest = mask.shape[dim] - step
        mask = torch.maximum(mask.narrow(dim, 0, rest), mask.narrow(dim, step, rest))
        seen += step
    return mask


def _widen(mask: Tensor, reach_y: int, reach_x: int) -> Tensor:
    """The largest value within `reach_y` rows and `reach_x` columns of each pixel."""
    height, width = mask.shape[-2:]
    return _widest(_widest(mask, min(reach_y, height - 1), -2), min(reach_x, width - 1), -1)


def thickness(mask: Tensor, most: int) -> Tensor:
    """How thick each part of a mask is: the side of the largest square of masked cells that each cell lies in, in cells, at most `most`.

    A cell that sticks out of a thicker part by no more than one counts as part of it, so that a blob's round corners are no thin parts.

    Args:
        mask: (B, h, w); > 0 is masked, and nothing beyond the frame is.
        most: >= 1.

    Returns: (B, h, w), whole numbers, 0 where nothing is masked.
    """
    on = (mask > 0).to(mask)
    thick = on
    for side in range(2, min(most, *mask.shape[-2:]) + 1):
        squares = -F.max_pool2d(-on, side, 1)
        thick = torch.where(F.max_pool2d(F.pad(squares, [side - 1] * 4), side, 1) > 0, side, thick)
    return dilate(thick, 3) * on


def inset(mask: Tensor, share: float) -> Tensor:
    """A mask without the outer part of what is broad: `share` of the way from its edge to its middle, in whole cells, rounded down.

    So strokes and small blobs stay as they are, and a mask that meets the frame loses nothing there, as if it went on beyond.

    Args:
        mask: (B, h, w) in 0..1; > 0 is masked.
        share: 0 <= share < 1; 0 leaves the mask as it is.
    """
    on = (mask > 0).to(mask)
    from_edge, from_frame = (torch.stack([_distance(one) for one in F.pad(on, [frame] * 4)]) for frame in (0, 1))
    middles = from_frame[:, 1:-1, 1:-1]
    left = mask
    for ring in range(1, math.floor(share * float(middles.max())) + 1):
        deep = math.ceil(ring / share - 1e-6)
        left = left * (1 - (from_edge == ring) * dilate((middles >= deep).to(mask), 2 * deep - 1))
    return left


def _distance(on: Tensor) -> Tensor:
    """How many cells each of (h, w) is from the nearest one that is 0, along the longer axis; more than there are where none is."""
    if bool(on.all()):
        return torch.full_like(on, 1 + max(on.shape))
    return torch.from_numpy(scipy.ndimage.distance_transform_cdt(on.cpu().numpy(), "chessboard")).to(on)


def dilate(mask: Tensor, kernel: int, shape: str = "square") -> Tensor:
    """Grey dilation with an all-ones structuring element of an odd width of `kernel` latent pixels.

    For a binary mask this is `scipy.ndimage.binary_dilation` with np.ones((kernel, kernel)), or with the disk
    dx² + dy² <= (kernel // 2)². Cost grows with log2(kernel), of a disk with kernel · log2(kernel), never with kernel².

    Args:
        mask: (B, h, w) in 0..1.
        kernel: odd, >= 1; 1 leaves the mask as it is.
        shape: `square` (the paper's) or `disk`.
    """
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"kernel is {kernel}, but must be an odd number of latent pixels, 1 or more.")
    radius = kernel // 2
    if shape == "square":
        return _widen(mask, radius, radius)
    if shape != "disk":
        raise ValueError(f"shape is {shape!r}, but must be one of {', '.join(SHAPES)}.")
    height = mask.shape[-2]
    wide = mask.clone()
    for dy in range(min(radius, height - 1) + 1):
        row = _widen(mask, 0, math.isqrt(radius**2 - dy**2))
        wide[..., dy:, :] = torch.maximum(wide[..., dy:, :], row[..., : height - dy, :])
        wide[..., : height - dy, :] = torch.maximum(wide[..., : height - dy, :], row[..., dy:, :])
    return wide


def soften(mask: Tensor, width: int) -> Tensor:
    """A linear ramp of `width` latent pixels outside the mask, whose inside stays as it is: (B, h, w) -> (B, h, w)."""
    return torch.stack([_widen(mask, reach, reach) for reach in range(width + 1)]).mean(0)
