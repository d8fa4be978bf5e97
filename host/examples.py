"""The example workflows and the blueprint: what is in them. host/compose.py makes the files.

A graph is a list of steps from the left to the right; a step has a heading and its columns of nodes. An input "@name.OUTPUT" is a link.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

WIDE, NARROW = 380, 310
# What nodes that show pictures or texts need after a run, in pixels, of which their widgets tell nothing before.
HEIGHTS = {"LoadImage": 430, "LoadImageMask": 430, "PreviewImage": 380, "SaveImage": 380, "PreviewAny": 200, "CLIPTextEncode": 130,
           "PrimitiveStringMultiline": 120, "LatentMaskResize": 430, "ProgressiveMaskDilate": 560, "BlendedLatentKSampler": 600, "ClipRankBatch": 740,
           "DecoderFinetuneReconstruct": 720}  # fmt: skip


@dataclass(frozen=True)
class Node:
    """One node: its type, a title if not its own, its links and the values of its widgets, by name."""

    kind: str
    title: str = ""
    inputs: dict[str, Any] = field(default_factory=dict)
    width: int = NARROW
    height: int = 0


@dataclass(frozen=True)
class Step:
    """A heading and columns of nodes by name."""

    title: str
    columns: Sequence[dict[str, Node]]


Graph = Sequence[Step]


def node(kind: str, title: str = "", width: int = NARROW, **inputs: Any) -> Node:
    """A node; inputs of a combination are named with `__` for the dot: method__feather."""
    return Node(kind, title, {name.replace("__", "."): value for name, value in inputs.items()}, width, HEIGHTS.get(kind, 0))


def note(text: str, width: int = WIDE) -> Node:
    """A note, as high as its text."""
    lines = sum(1 + int(len(line) * 6.5) // width for line in text.splitlines())
    return Node("MarkdownNote", "Read me first", {"text": text}, width, 60 + 17 * lines)


# -- parts that several examples share ------------------------------------------------------------------------------------

DEMO = node("LoadDemoModel", width=WIDE)
CHECKPOINT = node("CheckpointLoaderSimple", "SD 1.5 or SDXL checkpoint", WIDE, ckpt_name="")


def picture(file: str, title: str = "Your picture, with its mask painted in") -> Node:
    """The source picture."""
    return node("LoadImage", title, WIDE, image=file)


def words(text: str) -> Node:
    """The prompt, which several nodes read."""
    return node("PrimitiveStringMultiline", "What you want to see inside the mask", WIDE, value=text)


def source(file: str, text: str, told: str, model: Node = DEMO) -> Step:
    """The first step."""
    return Step("Start here: picture, mask, prompt", [
        {"note": note(told), "load": model, "picture": picture(file), "words": words(text)}])  # fmt: skip


def encoded(**more: Node) -> dict[str, Node]:
    """A column: picture and prompts to what the sampler reads."""
    return {"encode": node("VAEEncode", pixels="@picture.IMAGE", vae="@load.VAE"),
            "positive": node("CLIPTextEncode", "Prompt", clip="@load.CLIP", text="@words.STRING"),
            "negative": node("CLIPTextEncode", "Negative prompt", clip="@load.CLIP", text=""), **more}  # fmt: skip


def resize(mask: str = "@picture.MASK", image: str = "@picture.IMAGE") -> dict[str, Node]:
    """A column: the mask at latent size, shown on the picture."""
    return {"resize": node("LatentMaskResize", mask=mask, latent="@encode.LATENT", image=image)}


def shrink(image: str = "@picture.IMAGE", **settings: Any) -> dict[str, Node]:
    """The masks of the stages, shown on the picture."""
    return {"shrink": node("ProgressiveMaskDilate", width=WIDE, mask="@resize.mask", image=image, **settings)}


def sampler(title: str = "", **inputs: Any) -> Node:
    """Blended Latent KSampler as the paper sets it, with the cfg of the demo model and half of the steps, which is enough for it."""
    settings = {"model": "@load.MODEL", "positive": "@positive.CONDITIONING", "negative": "@negative.CONDITIONING", "latent_image": "@encode.LATENT",
                "seed": 1, "steps": 25, "cfg": 4.0, "sampler_name": "ddim", "scheduler": "ddim_uniform"}  # fmt: skip
    return node("BlendedLatentKSampler", title, WIDE, **settings | inputs)


DECODE = node("VAEDecode", "Decode all candidates", samples="@sample.latent", vae="@load.VAE")
RANKER = node("OpenClipLoader", clip_name="bld_demo_clip.safetensors")


def ranking(scope: str, mask: str = "@picture.MASK", **inputs: Any) -> Step:
    """Decode and rank the candidates."""
    settings = {"images": "@decode.IMAGE", "clip": "@ranker.clip", "prompt": "@words.STRING", "mask": mask, "latents": "@sample.latent", "scope": scope}
    ranked = node("ClipRankBatch", width=WIDE, **settings | inputs)
    return Step("Rank the candidates by how well they match", [{"decode": DECODE, "ranker": RANKER}, {"rank": ranked}])


CANDIDATES = node("PreviewImage", "All candidates, best first", WIDE, images="@rank.images")
BEST = node("LatentFromBatch", "Take the best one", WIDE, samples="@rank.latents", batch_index=0, length=1)


def reconstruct(samples: str = "@best.LATENT", mask: str = "@picture.MASK", title: str = "", **inputs: Any) -> Node:
    """Decoder Finetune Reconstruct."""
    links = {"samples": samples, "vae": "@load.VAE", "image": "@picture.IMAGE", "mask": mask}
    return node("DecoderFinetuneReconstruct", title, WIDE, **links | {"method": "decoder weights"} | inputs)


def finish(title: str = "Restore the background of the best one", **inputs: Any) -> Step:
    """Choose, and reconstruct."""
    return Step(title, [{"candidates": CANDIDATES, "best": BEST}, {"restore": reconstruct(**inputs)}])


def outcome(name: str, image: str = "@restore.image", report: str = "@restore.report") -> Step:
    """Save the result and tell of it."""
    return Step("Your result", [{"save": node("SaveImage", "Result", WIDE, images=image, filename_prefix=f"bld/{name}"),
                                 "report": node("PreviewAny", "What the reconstruction did", WIDE, source=report)}])  # fmt: skip


# -- the examples -----------------------------------------------------------------------------------------------------------

OWN = "To use your own checkpoint, put *Load Checkpoint* in place of *Load Demo Model* and use pictures of the size it was trained for."
PAINT = "right-click it, choose **Open in MaskEditor** and paint"


def smallest_graph() -> Graph:
    """Two nodes replaced in an image-to-image graph."""
    told = f"""## The smallest graph

An image-to-image graph with two nodes replaced: *Blended Latent KSampler* for *KSampler*, and *Decoder Finetune Reconstruct* for *VAE Decode*.

**Change first:** the picture ({PAINT}), the prompt, and the seed."""
    return [
        Step("", [{"load": node("LoadDemoModel"), "picture": node("LoadImage", image="bld_demo_edit.png"), "note": note(told, NARROW)}]),
        Step("", [{"encode": node("VAEEncode", pixels="@picture.IMAGE", vae="@load.VAE"),
                   "positive": node("CLIPTextEncode", "What you want to see inside the mask", clip="@load.CLIP", text="a sunflower"),
                   "negative": node("CLIPTextEncode", "Negative prompt", clip="@load.CLIP", text="")}]),
        Step("", [{"sample": sampler(seed=3, mask="@picture.MASK")}]),
        Step("", [{"restore": reconstruct("@sample.latent")}]),
        Step("", [{"save": node("SaveImage", width=WIDE, images="@restore.image", filename_prefix="bld/edit")}]),
    ]  # fmt: skip


def blended_latent_edit(model: Node = DEMO, file: str = "bld_demo_edit.png", text: str = "a sunflower", own: str = OWN, **settings: Any) -> Graph:
    """The whole method."""
    told = f"""## Blended Latent Diffusion

The whole method, from the left to the right. The mask has a schedule: thin parts start wide, and broad parts start a little inside \
their edge. The sampler draws several candidates under it. CLIP ranks them. A copy of the decoder is tuned until the background of the best one is yours \
again.

**Change first:** the picture and its mask ({PAINT}), then the prompt. Then *seed* and *candidates* of the sampler.

{own}"""
    return [
        source(file, text, told, model),
        Step("Prepare picture, prompt and mask", [encoded(), resize()]),
        Step("Sample candidates under a schedule of masks", [shrink(), {"sample": sampler(mask_schedule="@shrink.schedule", **settings)}]),
        ranking("masked"),
        finish(),
        outcome("edit"),
    ]


def sd15_or_sdxl() -> Graph:
    """The same with a checkpoint."""
    own = ("Choose your checkpoint, and a picture of the size it was trained for. Put `ViT-B-16-quickgelu.safetensors` into `models/open_clip`, or switch "
           "on **download** in *Load OpenCLIP* once.")  # fmt: skip
    graph = blended_latent_edit(CHECKPOINT, "example.png", "a vase of sunflowers", own, candidates=4, steps=50, cfg=7.5)
    decoded, ranked = graph[3].columns
    ranker = node("OpenClipLoader", clip_name="ViT-B-16-quickgelu openai")
    return [*graph[:3], Step(graph[3].title, [decoded | {"ranker": ranker}, ranked]), *graph[4:]]


# Its first candidate is a whole rainbow.
RAINBOW = 613443887586498


def thin_stroke() -> Graph:
    """With and without shrinking."""
    told = f"""## Thin stroke

A thin mask covers a few latent pixels, and what the early steps form there is blended away. So the mask starts wide and shrinks to your stroke. \
Both samplers use the same seeds: compare. This stroke is up to 4 latent pixels thick, so *thin* is 4.

The edit fills whole latent pixels, which are wider than the stroke. *Grow Mask* lets the reconstruction keep more of it.

**Change first:** the stroke ({PAINT}), the prompt, and *growth* of *Progressive Mask Dilate*."""
    return [
        source("bld_demo_stroke.png", "a rainbow", told),
        Step("Prepare picture, prompt and mask", [encoded(), resize()]),
        Step("Sample the same seeds twice: under the thin mask, and under one that shrinks to it", [
            shrink(thin=4) | {"thin": sampler("Without shrinking", seed=RAINBOW, candidates=4, mask="@resize.mask")},
            {"sample": sampler("With shrinking", seed=RAINBOW, candidates=4, mask_schedule="@shrink.schedule"),
             "decode thin": node("VAEDecode", samples="@thin.latent", vae="@load.VAE")}]),
        Step("Look at both, and keep the shrinking one", [
            {"decode": node("VAEDecode", samples="@sample.latent", vae="@load.VAE"),
             "preview thin": node("PreviewImage", "Without shrinking", WIDE, images="@decode thin.IMAGE"),
             "grow": node("GrowMask", "A little more than the stroke", mask="@picture.MASK", expand=8)},
            {"preview": node("PreviewImage", "With shrinking", WIDE, images="@decode.IMAGE"),
             "restore": reconstruct("@sample.latent", "@grow.MASK")}]),
        outcome("stroke"),
    ]  # fmt: skip


def pruned_candidates() -> Graph:
    """Sixteen candidates, of which few are finished."""
    told = f"""## Pruned candidates

Sixteen candidates start. Early on, in two rounds, *Prune Candidates* looks at what each of them is about to become, and only the better half goes on. \
Those that go on come out as they would without it.

**Change first:** the picture and its mask ({PAINT}), the prompt, and *candidates*. Disconnect *pruning* to draw all of them to the end.

With your own checkpoint, a tiny VAE (TAESD) is good enough for the judging."""
    prune = node("PruneCandidates", "Stop the poor ones early", WIDE, clip="@ranker.clip", vae="@load.VAE", prompt="@words.STRING", mask="@picture.MASK")
    ranked = ranking("mix")
    return [
        source("bld_demo_edit.png", "a panda", told),
        Step("Prepare picture, prompt and mask", [encoded(), resize() | {"ranker": RANKER}]),
        Step("Sample 16 candidates, and stop the poor ones early", [
            shrink() | {"prune": prune},
            {"sample": sampler(candidates=16, seed=2, mask_schedule="@shrink.schedule", pruning="@prune.pruning")}]),
        Step("Rank those that were finished", [{"decode": DECODE}, *ranked.columns[1:]]),
        finish(),
        outcome("edit"),
    ]  # fmt: skip


def scribble_edit() -> Graph:
    """A stroke painted into the picture."""
    told = """## Scribble edit

A rough stroke is painted into the picture, and masked. With *denoise* below 1 the sampler starts from the stroke, so the result keeps its place and color.

**Change first:** the prompt, and *denoise* of the sampler: lower it to stay nearer to the stroke."""
    return [
        source("bld_demo_scribble.png", "a mushroom", told),
        Step("Prepare picture, prompt and mask", [encoded(), resize()]),
        Step("Sample 4 candidates from the scribble", [{"sample": sampler(denoise=0.75, candidates=4, mask="@resize.mask")}]),
        ranking("masked"),
        finish(),
        outcome("scribble"),
    ]


def background_edit() -> Graph:
    """The mask inverted."""
    told = f"""## Background edit

The mask is inverted: what you paint stays, and the prompt says what is behind it. One *Invert Mask* serves the sampler, the ranking and the reconstruction.

The mask follows an outline, so *feather* of the reconstruction is 0: a soft transition would bring back what was around the object.

**Change first:** the picture, what is painted ({PAINT}), and the prompt."""
    return [
        source("bld_demo_background.png", "at night", told),
        Step("Edit everything but what you painted", [encoded(invert=node("InvertMask", "Everything but what you painted", mask="@picture.MASK")),
                                                      resize("@invert.MASK")]),
        Step("Sample 4 candidates", [{"sample": sampler(candidates=4, mask="@resize.mask")}]),
        ranking("whole", "@invert.MASK"),
        finish("Bring back what you painted", mask="@invert.MASK", method__feather=0),
        outcome("background"),
    ]  # fmt: skip


def large_picture() -> Graph:
    """A small place of a large picture."""
    told = f"""## Large picture

The picture is larger than what the model draws. *Edit Cut Out* takes the mask and some of what is around it, the model edits this crop, and *Edit Put Back* \
puts the result into the whole picture. So the edit costs what the place costs, and every pixel outside the mask stays yours.

**Change first:** the picture and its mask ({PAINT}), the prompt, and *context* of *Edit Cut Out*. With your own checkpoint, set its *size* to the one that it \
was trained for."""
    cut = node("EditCutOut", width=WIDE, image="@picture.IMAGE", mask="@picture.MASK", context=0.2)
    return [
        source("bld_demo_large.png", "a gift", told),
        Step("Cut out what the edit needs to see", [{"cut": cut}]),
        Step("Prepare crop, prompt and mask", [encoded(encode=node("VAEEncode", pixels="@cut.image", vae="@load.VAE")), resize("@cut.mask", "@cut.image")]),
        Step("Sample 4 candidates under a schedule of masks", [
            shrink("@cut.image"), {"sample": sampler(candidates=4, mask_schedule="@shrink.schedule")}]),
        ranking("masked", "@cut.mask"),
        finish(image="@cut.image", mask="@cut.mask"),
        Step("Put it back into the whole picture", [{"back": node("EditPutBack", width=WIDE, edited="@restore.image", where="@cut.where", method="paste")}]),
        outcome("large", "@back.image"),
    ]


def any_sampler() -> Graph:
    """A stock KSampler."""
    told = f"""## Any sampler

*Apply Mask Schedule* patches the model, so the schedule of masks works in *KSampler*, *KSampler (Advanced)* and *SamplerCustomAdvanced*. Don't set a noise \
mask in the latent, too: the schedule replaces it.

**Change first:** the picture and its mask ({PAINT}), the prompt, and the sampler."""
    apply = node("ApplyMaskSchedule", model="@load.MODEL", mask_schedule="@shrink.schedule")
    stock = node("KSampler", width=WIDE, model="@apply.model", positive="@positive.CONDITIONING", negative="@negative.CONDITIONING",
                 latent_image="@encode.LATENT", seed=1, steps=25, cfg=4.0, sampler_name="dpmpp_2m", scheduler="karras")  # fmt: skip
    return [
        source("bld_demo_edit.png", "a sunflower", told),
        Step("Prepare picture, prompt and mask", [encoded(), resize()]),
        Step("Put the schedule of masks into the model, and sample as usual", [shrink(), {"apply": apply}, {"sample": stock}]),
        Step("Restore the background", [{"restore": reconstruct("@sample.LATENT")}]),
        outcome("any_sampler"),
    ]


def many_machines() -> Graph:
    """Each machine finishes its own best candidate."""
    told = f"""## Many machines

Needs the pack [ComfyUI-Distributed](https://github.com/robertvoy/ComfyUI-Distributed). Each machine draws candidates from a seed of its own, chooses its \
best and restores the background. Nothing but finished pictures travels: *Distributed Collector* brings them to the master, and a second *CLIP Rank Batch* \
puts them in order.

Without workers, the graph runs on your machine alone.

**Change first:** the picture and its mask ({PAINT}), the prompt, and *candidates*: how many each machine draws."""
    again = {"images": "@collect.images", "clip": "@ranker.clip", "prompt": "@words.STRING", "mask": "@picture.MASK", "source": "@picture.IMAGE"}
    return [
        source("bld_demo_edit.png", "a sunflower", told),
        Step("Prepare picture, prompt and mask", [encoded(), resize() | {"seed": node("DistributedSeed", "A seed for each machine", seed=31)}]),
        Step("Each machine: sample candidates of its own", [
            shrink(), {"sample": sampler(seed="@seed.seed", candidates=4, mask_schedule="@shrink.schedule")}]),
        ranking("masked", top_k=1),
        Step("Each machine: restore the background of its best", [{"restore": reconstruct("@rank.latents")}]),
        Step("The master: collect the finished pictures, and rank them", [
            {"collect": node("DistributedCollector", "The best of each machine", images="@restore.image", load_balance=False)},
            {"again": node("ClipRankBatch", "The best of all", WIDE, scope="masked", **again)}]),
        outcome("many_machines", "@again.images", "@again.report"),
    ]  # fmt: skip


LEFT, RIGHT = "bld_demo_left.png", "bld_demo_right.png"


def two_edits() -> Graph:
    """Two regions in one run."""
    told = f"""## Two edits at once

Two masks, each with its own prompt, in one run. *Conditioning (Set Mask)* ties each prompt to its mask. The sampler edits both regions together, so \
they fit each other.

**Change first:** the two prompts. The left mask is painted into the picture, the right one is the alpha of a second file: \
open either ({PAINT})."""
    region = {name: node("ConditioningSetMask", f"{title} prompt in the {title.lower()} mask", conditioning=f"@{name} words.CONDITIONING", mask=mask)
              for name, title, mask in (("left", "Left", "@picture.MASK"), ("right", "Right", "@second.MASK"))}  # fmt: skip
    return [
        Step("Start here: picture and two masks", [
            {"note": note(told), "load": DEMO, "picture": picture(LEFT, "Your picture, with the left mask painted in"),
             "second": node("LoadImageMask", "The right mask", WIDE, image=RIGHT, channel="alpha")}]),
        Step("Say what you want to see in each", [
            {"encode": node("VAEEncode", pixels="@picture.IMAGE", vae="@load.VAE"),
             "left words": node("CLIPTextEncode", "What you want to see on the left", clip="@load.CLIP", text="a penguin"),
             "right words": node("CLIPTextEncode", "What you want to see on the right", clip="@load.CLIP", text="a sunflower"),
             "negative": node("CLIPTextEncode", "Negative prompt", clip="@load.CLIP", text=""),
             "both": node("MaskComposite", "Both masks", destination="@picture.MASK", source="@second.MASK", operation="add")},
            region | resize("@both.MASK")]),
        Step("Sample 8 candidates", [
            shrink() | {"positive": node("ConditioningCombine", "Both prompts", conditioning_1="@left.CONDITIONING", conditioning_2="@right.CONDITIONING")},
            {"sample": sampler(candidates=8, mask_schedule="@shrink.schedule")}]),
        ranking("box", "@both.MASK", prompt="a penguin\na sunflower"),
        finish(mask="@both.MASK"),
        outcome("two_edits"),
    ]  # fmt: skip


def edit_an_edit() -> Graph:
    """The result is the source of the next edit."""
    told = f"""## Edit an edit

The picked result of the first edit is the source of the second. The background comes back each time, so the picture does not wear out, however many \
edits follow.

**Change first:** the two prompts. The first mask is painted into the picture, the second one is the alpha of a second file: \
open either ({PAINT})."""
    again = {"encode": node("VAEEncode", pixels="@restore.image", vae="@load.VAE")}
    ranked = ranking("masked", prompt="a penguin", top_k=1)
    return [
        Step("Start here: picture and two masks", [
            {"note": note(told), "load": DEMO, "picture": picture(LEFT, "Your picture, with the first mask painted in"),
             "second": node("LoadImageMask", "The second mask", WIDE, image=RIGHT, channel="alpha")}]),
        Step("First edit: say what you want to see", [
            {"encode": node("VAEEncode", pixels="@picture.IMAGE", vae="@load.VAE"),
             "positive": node("CLIPTextEncode", "What you want to see first", clip="@load.CLIP", text="a penguin"),
             "negative": node("CLIPTextEncode", "Negative prompt", clip="@load.CLIP", text=""), "ranker": RANKER}]),
        Step("First edit: sample 4 candidates, and pick the best", [
            {"sample": sampler(candidates=4, mask="@picture.MASK")}, {"decode": DECODE}, *ranked.columns[1:],
            {"restore": reconstruct("@rank.latents")}]),
        Step("Second edit: on top of the first", [
            {"encode again": again["encode"],
             "positive again": node("CLIPTextEncode", "What you want to see next", clip="@load.CLIP", text="a sunflower"),
             "preview": node("PreviewImage", "After the first edit", WIDE, images="@restore.image")},
            {"sample again": sampler(latent_image="@encode again.LATENT", positive="@positive again.CONDITIONING", mask="@second.MASK")},
            {"restore again": node("DecoderFinetuneReconstruct", width=WIDE, samples="@sample again.latent", vae="@load.VAE", image="@restore.image",
                                   mask="@second.MASK", method="decoder weights")}]),
        outcome("edit_an_edit", "@restore again.image", "@restore again.report"),
    ]  # fmt: skip


# -- the blueprint ----------------------------------------------------------------------------------------------------------

BLUEPRINT = "Blended Latent Edit"
ABOUT = "Edits the masked part of a picture by a prompt: draws several candidates, ranks them, and restores the background of the best one."
ALIASES = ["inpaint", "local edit", "replace object", "best of", "blended latent diffusion"]
# What its node takes, in order: sockets of these types, and widgets with these values.
SOCKETS = {"model": "MODEL", "clip": "CLIP", "vae": "VAE", "image": "IMAGE", "mask": "MASK"}
WIDGETS = {"prompt": "", "candidates": 4, "quality": "balanced", "seed": 0, "cfg": 7.5, "ranking_clip": "ViT-B-16-quickgelu openai", "download": False}
# What it gives.
GIVES = {"image": "@restore.image", "candidates": "@rank.images", "report": "@report.STRING"}


def blueprint() -> Graph:
    """What is inside; "@in" is the node's own input."""
    def by_quality(title: str, quick: int, balanced: int, best: int) -> Node:
        return node("ComfyMathExpression", f"{title}: quick {quick}, balanced {balanced}, best {best}", WIDE,
                    expression=f"{quick} if a else ({best} if b else {balanced})", **{"values.a": "@quick.BOOLEAN", "values.b": "@best.BOOLEAN"})  # fmt: skip

    def is_chosen(quality: str) -> Node:
        return node("StringCompare", f"Is it {quality}?", string_a="@quality.STRING", string_b=quality, mode="Equal")

    encode = node("VAEEncode", pixels="@in.image", vae="@in.vae")
    return [
        Step("Prepare picture, prompt and quality", [
            {"encode": encode,
             "words": node("PrimitiveStringMultiline", "What you want to see inside the mask", value="@in.prompt"),
             "quality": node("CustomCombo", "Quality", option1="quick", option2="balanced", option3="best", choice="@in.quality")},
            resize("@in.mask", "@in.image") | {
                "quick": is_chosen("quick"), "best": is_chosen("best"),
                "positive": node("CLIPTextEncode", "Prompt", clip="@in.clip", text="@words.STRING"),
                "negative": node("CLIPTextEncode", "Negative prompt", clip="@in.clip", text="")}]),
        Step("Sample candidates under a schedule of masks", [
            shrink("@in.image") | {"steps": by_quality("Sampling steps", 12, 20, 50), "fit": by_quality("Reconstruction steps", 10, 20, 75)},
            {"sample": sampler(model="@in.model", steps="@steps.INT", cfg="@in.cfg", seed="@in.seed", scheduler="normal", candidates="@in.candidates",
                               mask_schedule="@shrink.schedule")}]),
        Step("Rank them, best first", [
            {"decode": node("VAEDecode", "Decode all candidates", samples="@sample.latent", vae="@in.vae"),
             "ranker": node("OpenClipLoader", clip_name="@in.ranking_clip", download="@in.download")},
            {"rank": node("ClipRankBatch", width=WIDE, images="@decode.IMAGE", clip="@ranker.clip", prompt="@words.STRING", mask="@in.mask",
                          latents="@sample.latent", scope="mix")}]),
        Step("Restore the background of the best one", [
            {"first": BEST},
            {"restore": node("DecoderFinetuneReconstruct", width=WIDE, samples="@first.LATENT", vae="@in.vae", image="@in.image", mask="@in.mask",
                             method="decoder weights", method__iterations="@fit.INT")},
            {"report": node("StringConcatenate", "One report", string_a="@rank.report", string_b="@restore.report", delimiter="\n\n")}]),
    ]  # fmt: skip


def one_node() -> Graph:
    """The blueprint at work."""
    told = f"""## One node

*{BLUEPRINT}* holds the whole method. Find it in the node library under *Subgraph Blueprints*. To see what is inside, click the icon at its top right corner.

**Change first:** the picture and its mask ({PAINT}), then *prompt*, *candidates* and *quality*.

To rank with your own checkpoint's pictures, choose `ViT-B-16-quickgelu openai` as *ranking_clip* and switch on *download* once."""
    edit = node(BLUEPRINT, width=WIDE, model="@load.MODEL", clip="@load.CLIP", vae="@load.VAE", image="@picture.IMAGE", mask="@picture.MASK",
                prompt="a sunflower", candidates=8, quality="balanced", seed=1, cfg=4.0, ranking_clip="bld_demo_clip.safetensors", download=False)  # fmt: skip
    return [
        Step("Start here: picture and mask", [{"note": note(told), "load": DEMO, "picture": picture("bld_demo_edit.png")}]),
        Step("Say what you want to see", [{"edit": edit}]),
        Step("Your result", [
            {"save": node("SaveImage", "Result", WIDE, images="@edit.image", filename_prefix="bld/one_node"),
             "candidates": node("PreviewImage", "All candidates, best first", WIDE, images="@edit.candidates"),
             "report": node("PreviewAny", "Ranking and reconstruction", WIDE, source="@edit.report")}]),
    ]  # fmt: skip


EXAMPLES: dict[str, Callable[[], Graph]] = {
    "smallest_graph": smallest_graph,
    "one_node": one_node,
    "blended_latent_edit": lambda: blended_latent_edit(seed=31, candidates=8),
    "thin_stroke": thin_stroke,
    "pruned_candidates": pruned_candidates,
    "scribble_edit": scribble_edit,
    "background_edit": background_edit,
    "large_picture": large_picture,
    "any_sampler": any_sampler,
    "two_edits": two_edits,
    "edit_an_edit": edit_an_edit,
    "many_machines": many_machines,
    "sd15_or_sdxl": sd15_or_sdxl,
}
