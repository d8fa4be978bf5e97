"""The files that a job puts into ComfyUI's input folder: the picture as it is, or with its mask in its alpha channel."""
from __future__ import annotations

import hashlib
import re
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageOps

from host import HostError
from host.own_picture import size_of

FOLDER = "edit"  # in the input folder
# What Pillow raises for a damaged picture, and for one with more pixels than it dares to open.
UNREADABLE = (OSError, ValueError, TypeError, SyntaxError, Image.DecompressionBombError)


class Upload:
    """A picture to upload. Its name tells its content, so that equal prompts mean equal edits. Raises HostError for a missing file."""

    def __init__(self, image: Path, mask: Path | None = None, alpha: bool = False) -> None:
        self._image, self._mask, self._alpha = image, mask, alpha
        self._source = _bytes(image)
        self._painted = _bytes(mask) if mask else b""
        digest = hashlib.sha256(self._source + b"|" + self._painted + b"|" + bytes([alpha])).hexdigest()[:16]
        # Without what breaks the header of the upload: quotes, control characters, bytes that are no letters.
        stem = re.sub(r"[^\w .-]", "_", image.stem)
        self.name = f"{stem}-{digest}{'.png' if alpha else image.suffix.lower()}"

    def data(self) -> bytes:
        """The file. Raises HostError for a picture that cannot be read, and for one without a mask where there must be one."""
        if not self._alpha:
            return self._source
        picture = _opened(self._image, self._source)
        if self._mask:
            mask = _opened(self._mask, self._painted).convert("L")
            if mask.size != picture.size:
                raise HostError(f"{self._mask.name} is {size_of(mask)}, but {self._image.name} is {size_of(picture)}: make the mask as large as the picture.")
            picture = picture.convert("RGB")
            picture.putalpha(ImageOps.invert(mask))
        elif not picture.has_transparency_data:
            raise HostError(f"{self._image.name} has no mask: erase what may change, so that it is transparent, or put a black and white "
                            f"{self._image.stem}_mask.png beside it.")  # fmt: skip
        return _png(picture.convert("RGBA"))


class MaskUpload(Upload):
    """A mask of its own, for a loader that reads one of its channels: white and transparent where the picture may change."""

    def data(self) -> bytes:
        """The file. Raises HostError for one that cannot be read."""
        mask = _opened(self._image, self._source).convert("L")
        picture = Image.merge("RGB", [mask] * 3)
        picture.putalpha(ImageOps.invert(mask))
        return _png(picture)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise HostError(f"Cannot read {path}: {error.strerror}.") from None


def _opened(path: Path, data: bytes) -> Image.Image:
    """The picture, upright."""
    try:
        picture = ImageOps.exif_transpose(Image.open(BytesIO(data)))
        picture.load()
    except Image.DecompressionBombError:
        raise HostError(f"{path.name} is too large: it has more than {2 * Image.MAX_IMAGE_PIXELS:,} pixels.") from None
    except UNREADABLE:
        raise HostError(f"{path.name} is not a picture, or it is damaged.") from None
    if picture.mode.startswith(("I", "F")):
        raise HostError(f"{path.name} has more than 8 bits a color: save it with 8.")
    return picture


def _png(picture: Image.Image) -> bytes:
    file = BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()
