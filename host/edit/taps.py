"""What a workflow is asked beside its pictures, and what its run then tells of each of them."""
from __future__ import annotations

import json
from typing import Any

from host import HostError
from host.client import Run
from host.workflow import is_link

Json = dict[str, Any]

RANK, RECONSTRUCT, SAMPLE, REPORT, PART = "ClipRankBatch", "DecoderFinetuneReconstruct", "BlendedLatentKSampler", "EditReport", "LatentFromBatch"
FIGURES = ("background_psnr", "worst_block", "seam", "colour_shift")
# The nodes behind which it is still known which candidate a picture is: for each output, the input that it comes from.
GETS = {SAMPLE: ("",), RANK: ("images", "latents"), PART: ("samples",), RECONSTRUCT: ("samples",), "VAEDecode": ("samples",),
        "VAEDecodeTiled": ("samples",), "EditPutBack": ("edited",)}  # fmt: skip
SHOWN = {SAMPLE: ("seeds",), RANK: ("scores", "order", "report"), RECONSTRUCT: ("report",), REPORT: ("report",)}


class Taps:
    """A prompt with nodes added that tell what it does, and its pictures shown in place of saved on the server. Raises HostError."""

    def __init__(self, prompt: Json, object_info: Json) -> None:
        self._info = object_info
        self.prompt = {node: dict(entry) for node, entry in prompt.items()}
        self._ways = {node: self._way(entry["inputs"].get("images")) for node, entry in prompt.items() if entry["class_type"] == "SaveImage"}
        if not self._ways:
            raise HostError("The workflow saves no picture: end it with Save Image.")
        for saved, way in self._ways.items():
            self.prompt[saved] = {"class_type": "PreviewImage", "inputs": {"images": prompt[saved]["inputs"].get("images")}}
            for node in way:
                self._show(node)

    def told(self, run: Run) -> list[tuple[Json, Json]]:
        """A run's pictures as the server names their files, each with its own score, seed, figures and reports, as far as they are known.

        Raises HostError if there is none.
        """
        pictures: list[tuple[Json, Json]] = []
        for saved, way in self._ways.items():
            files = run.outputs.get(saved, {}).get("images", [])
            known = self._known(way, run)
            reports = [text for node in way for text in _texts(run, node, "report")]
            common = {"report": "\n\n".join(reports)} if reports else {}
            pictures += [(file, common | (known[place] if len(known) == len(files) else {})) for place, file in enumerate(files)]
        if not pictures:
            raise HostError("The workflow gave no picture.")
        return pictures

    def _way(self, link: Any) -> list[str]:
        """The nodes that a picture comes through, from the first to the last."""
        way: list[str] = []
        while is_link(link) and link[0] not in way:
            node, output = link
            inputs = GETS.get(self._kind(node), ())
            if output >= len(inputs):
                break
            way.insert(0, node)
            link = self.prompt[node]["inputs"].get(inputs[output])
        return way

    def _known(self, way: list[str], run: Run) -> list[Json]:
        """What is known of each picture at the end of its way; without its seed where it is not clear which candidate it is."""
        known: list[Json] = []
        for node in way:
            kind, inputs = self._kind(node), self.prompt[node]["inputs"]
            if kind == SAMPLE:
                known = [{"candidate_seed": int(seed)} if seed.isdigit() else {} for seed in _texts(run, node, "seeds")]
            elif kind == RANK:
                ranked = zip(_texts(run, node, "order"), _texts(run, node, "scores"), strict=True)
                known = [_at(known, int(place)) | {"score": round(float(score), 4)} for place, score in ranked]
            elif kind == PART:
                first, length = inputs["batch_index"], inputs["length"]
                known = known[first:first + length] if not is_link(first) and not is_link(length) and first >= 0 else []
            elif kind == RECONSTRUCT:
                figures = [_figures(one) for text in _texts(run, _report(node), "report") for one in json.loads(text)["pictures"]]
                known = [_at(known, place) | one if len(known) == len(figures) else one for place, one in enumerate(figures)]
        return known

    def _kind(self, node: str) -> str:
        return self.prompt.get(node, {}).get("class_type", "")

    def _show(self, node: str) -> None:
        """Add the nodes that show what a node tells."""
        kind = self._kind(node)
        for output in SHOWN.get(kind, ()):
            self.prompt[_tap(node, output)] = {"class_type": "PreviewAny", "inputs": {"source": [node, self._info[kind]["output_name"].index(output)]}}
        if kind == RECONSTRUCT:
            given = self.prompt[node]["inputs"]
            self.prompt[_report(node)] = {"class_type": REPORT, "inputs": {"source": given["image"], "edited": [node, 0], "mask": given["mask"]}}
            self._show(_report(node))


def _report(node: str) -> str:
    return f"edit_{node}_figures"


def _tap(node: str, output: str) -> str:
    return f"edit_{node}_{output}"


def _texts(run: Run, node: str, output: str) -> list[str]:
    return run.outputs.get(_tap(node, output), {}).get("text", [])


def _at(known: list[Json], place: int) -> Json:
    return known[place] if place < len(known) else {}


def _figures(measured: Json) -> Json:
    return {name: round(measured[name], 4) for name in FIGURES if measured[name] is not None}
