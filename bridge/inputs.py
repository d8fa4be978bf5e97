"""What reaches a node, against the node's own schema. ComfyUI checks only what is typed into a node, not what comes over a link."""

from __future__ import annotations

import inspect
import numbers
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import wraps

from comfy_api.latest import io
from torch import Tensor

from .checks import MOST, printable
from .clip.models import OpenClip
from .cut_out import Place
from .sampling.pruning import Pruning

# What a value of a socket type has, so that an object of another pack counts that can do the same.
PARTS = {
    "MODEL": ("clone", "model_options"),
    "VAE": ("encode", "decode", "first_stage_model"),
    "MASK_SCHEDULE": ("masks", "shares"),
}
# What travels between our own nodes alone is of one class.
CLASSES = {"OPEN_CLIP": OpenClip, "CANDIDATE_PRUNING": Pruning, "EDIT_PLACE": Place}
# Characters of a value that a sentence shows.
LONGEST = 60


def checked(execute: Callable[..., io.NodeOutput]) -> Callable[..., io.NodeOutput]:
    """A node's execute that first checks its inputs, see `check`. Under @classmethod."""
    signature = inspect.signature(execute)

    @wraps(execute)
    def first_checked(cls: type[io.ComfyNode], *args: object, **kwargs: object) -> io.NodeOutput:
        schema, given = cls.define_schema(), signature.bind(cls, *args, **kwargs)
        for declared in schema.inputs:
            # Nothing in an optional input means its default.
            if declared.optional and declared.id in given.arguments and given.arguments[declared.id] is None:
                del given.arguments[declared.id]
        check(schema, given.arguments)
        try:
            return execute(*given.args, **given.kwargs)
        except ValueError as error:
            # ComfyUI logs an error with all that led to it. No text or file's name that is quoted there may control the terminal.
            if "".join(traceback.format_exception(error)).replace("\n", "").isprintable():
                raise
            raise ValueError(printable(str(error))).with_traceback(error.__traceback__) from None

    return first_checked


def check(schema: io.Schema, values: Mapping[str, object]) -> None:
    """Raises ValueError for a value of another type than its input's, for a number beyond its limits, and for a choice that is not offered."""
    for declared in schema.inputs:
        if declared.id in values:
            check_value(declared, values[declared.id], bool(schema.is_input_list))


def check_value(declared: io.Input, value: object, listed: bool) -> None:
    """One value, or the list of them that a node with lists as inputs gets. Raises ValueError."""
    if isinstance(declared, io.DynamicCombo.Input):
        check_choice(declared, value, listed)
    elif not listed:
        check_one(declared, value)
    elif not isinstance(value, Sequence) or isinstance(value, str):
        raise ValueError(f"{declared.id} is {named(value)}, but must be a list.")
    else:
        for one in value:
            check_one(declared, one)


def check_choice(declared: io.DynamicCombo.Input, value: object, listed: bool) -> None:
    """A choice that has inputs of its own: {its name: the choice, each of the inputs: its value}."""
    key = value.get(declared.id) if isinstance(value, Mapping) else value
    if listed and isinstance(key, Sequence) and len(key) == 1:
        key = key[0]
    chosen = next((option for option in declared.options if option.key == key), None)
    if chosen is None:
        raise ValueError(f"{declared.id} is {named(key)}, but must be one of {', '.join(option.key for option in declared.options)}.")
    for of_choice in chosen.inputs:
        if of_choice.id in value:
            check_value(of_choice, value[of_choice.id], listed)


def check_one(declared: io.Input, value: object) -> None:
    """A single value. Raises ValueError."""
    wanted = expected(declared, value)
    if wanted is not None:
        raise ValueError(f"{declared.id} is {named(value)}, but must be {wanted}.")


def expected(declared: io.Input, value: object) -> str | None:
    """What the value must be, in words, where it is something else. The samples of a LATENT are left to `checks`, which knows more kinds."""
    match declared:
        case io.Int.Input():
            right = isinstance(value, numbers.Integral) and not isinstance(value, bool) and declared.min <= value <= declared.max
            return None if right else f"a whole number from {declared.min} to {declared.max}"
        case io.Float.Input():
            right = isinstance(value, numbers.Real) and declared.min <= value <= declared.max
            return None if right else f"a number from {declared.min:g} to {declared.max:g}"
        case io.Combo.Input():
            return None if isinstance(value, str) and value in declared.options else "one of the choices that the node offers"
        case io.String.Input():
            return None if isinstance(value, str) and is_unicode(value) else "a text"
        case io.Boolean.Input():
            return None if isinstance(value, numbers.Integral) else "true or false"
        case io.Image.Input() | io.Mask.Input():
            return None if is_plain(value) else a(declared.get_io_type())
        case io.Latent.Input():
            masked = value.get("noise_mask") if isinstance(value, Mapping) else None
            return None if masked is None or (is_plain(masked) and masked.ndim >= 2 and masked.numel() > 0) else "a LATENT whose noise_mask is a MASK"
        case io.Conditioning.Input():
            return None if is_conditioning(value) else "a CONDITIONING, for example from CLIP Text Encode"
    kind = declared.get_io_type()
    right = isinstance(value, CLASSES.get(kind, object)) and all(hasattr(value, part) for part in PARTS.get(kind, ()))
    return None if right else a(kind)


def is_plain(value: object) -> bool:
    """Whether a value is a tensor of real numbers, each in a place of its own, and not of more than any memory holds."""
    kinds = ("is_sparse", "is_quantized", "is_meta")
    return isinstance(value, Tensor) and value.numel() <= MOST and not value.is_complex() and not any(getattr(value, kind) for kind in kinds)


def is_conditioning(value: object) -> bool:
    """Whether a value is a list of prompts, each a tensor with a dict of options."""
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(isinstance(one, list | tuple) and len(one) == 2 and isinstance(one[0], Tensor) and isinstance(one[1], dict) for one in value)
    )


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8. JSON may hold halves of characters, which can't."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def named(value: object) -> str:
    """A value in a sentence: numbers and texts as they are, shortened, all others by their kind."""
    if isinstance(value, str | int | float | bool | None):
        text = ascii(value)
        return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
    return a(type(value).__name__)


def a(name: str) -> str:
    """The name with its article."""
    return f"{'an' if name[:1] in 'AEIOUaeio' else 'a'} {name}"
