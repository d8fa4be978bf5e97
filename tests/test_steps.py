"""What the sampler's display is given: where the steps lie on the schedule, and the masks that they really have."""

from __future__ import annotations

import json

import pytest
import torch
from test_workflows import nodes_of, workflow

from blended_latent_diffusion.bridge.sampling.steps import EVENT
from blended_latent_diffusion.nodes.blended_latent_ksampler import BlendedLatentKSampler
from blended_latent_diffusion.nodes.latent_mask_resize import LatentMaskResize
from blended_latent_diffusion.nodes.progressive_mask_dilate import ProgressiveMaskDilate
from conftest import Edit


def schedule(edit: Edit, **options):
    return ProgressiveMaskDilate.execute(LatentMaskResize.execute(edit.mask, edit.latent).args[0], **options).args[0]


def draw(edit: Edit, **options) -> dict:
    """What the display gets after a run."""
    given = {"model": edit.model, "seed": 5, "latent_image": edit.latent, "steps": 8, "cfg": 1.0, "sampler_name": "ddim", "scheduler": "ddim_uniform"} | options
    with torch.inference_mode():
        (shown,) = BlendedLatentKSampler.execute(positive=edit.positive, negative=edit.negative, **given).ui["steps"]
    return json.loads(json.dumps(shown, allow_nan=False))


@pytest.mark.parametrize("options", [{}, {"denoise": 0.5}, {"scheduler": "karras", "sampler_name": "euler"}, {"steps": 3}])
def test_each_step_has_the_mask_that_the_display_says(edit, options):
    used, model, masks = [], edit.model.clone(), schedule(edit)

    def look(sigma, mask, extra_options):
        used.append(float((mask > 0).float().mean()))
        return mask

    model.set_model_denoise_mask_function(look)
    shown = draw(edit, model=model, mask_schedule=masks, **options)
    assert [shown["covers"][stage] for stage in shown["stages"]] == pytest.approx(used, abs=1e-3)
    assert shown["shares"] == pytest.approx(masks.shares) and len(shown["starts"]) == len(used) == options.get("steps", 8)


def test_the_papers_fifty_steps_start_where_their_stages_say(edit):
    shown = draw(edit, steps=50, mask_schedule=schedule(edit))
    assert [shown["stages"].count(stage) for stage in range(4)] == [13, 13, 13, 11]
    ends = [0.26, 0.52, 0.78, 1]
    assert all(start <= ends[stage] + 1e-3 for start, stage in zip(shown["starts"], shown["stages"], strict=True))
    assert shown["starts"][0] < 0.03 and shown["starts"] == sorted(shown["starts"]) and shown["starts"][-1] == pytest.approx(0.98, abs=0.02)
    assert shown["settings"] == {"steps": 50, "sampler_name": "ddim", "scheduler": "ddim_uniform", "denoise": 1.0}


def test_a_late_start_and_a_run_without_steps(edit):
    assert draw(edit, denoise=0.5, scheduler="simple")["starts"][0] == pytest.approx(0.5, abs=0.01)
    assert draw(edit, denoise=0.0)["starts"] == []


def test_without_a_schedule_there_is_one_stage(edit):
    shown = draw(edit, mask=edit.mask)
    assert shown["shares"] == [1] and set(shown["stages"]) == {0} and shown["covers"] == pytest.approx([float(schedule(edit).thin.mean())], abs=1e-3)


@pytest.mark.parametrize("resample, order", [(0, [0, 1, 2, 3]), (2, [0, 1, 2, 3, 2, 3])])
def test_the_display_hears_of_the_steps_before_the_first_and_then_of_each(client, resample, order):
    prompt, told = client.prompt(workflow("smallest_graph")), []
    (node,) = nodes_of(prompt, "BlendedLatentKSampler")
    prompt[node]["inputs"] |= {"steps": 4, "resample_steps": resample}
    done = client.run(prompt, lambda event: told.append(event.data) if event.type == EVENT else None)
    first, *others = told
    assert first == {"node": node, "steps": done.outputs[node]["steps"][0]}
    assert others == [{"node": node, "step": step} for step in order]
