"""Every image VAE of the host, small and with random weights: its decoder's last stages on a crop, and the node's answer."""

from __future__ import annotations

import comfy.ldm.audio.autoencoder
import comfy.ldm.cascade.stage_a
import comfy.ldm.hunyuan3d.vae
import comfy.ldm.lightricks.vae.causal_video_autoencoder
import comfy.ldm.models.autoencoder as autoencoders
import comfy.ldm.wan.vae
import comfy.ldm.wan.vae2_2
import comfy.model_management
import comfy.sd
import comfy.taesd.taesd
import pytest
import torch
from torch import nn

from blended_latent_diffusion.bld.edges import Region
from blended_latent_diffusion.bld.reconstruction.crop import tiles_over
from blended_latent_diffusion.bld.reconstruction.decoder import draw, look_at
from blended_latent_diffusion.bld.reconstruction.tail import enter, held
from blended_latent_diffusion.bridge.vae import plan
from blended_latent_diffusion.bridge.vae.pixels import decode_of
from blended_latent_diffusion.bridge.vae.tails import tail_of
from blended_latent_diffusion.nodes.decoder_finetune_reconstruct import DecoderFinetuneReconstruct
from conftest import skip_without

LDM = {"double_z": True, "resolution": 64, "in_channels": 3, "out_ch": 3, "ch": 32, "ch_mult": [1, 2, 2, 2], "num_res_blocks": 1, "attn_resolutions": [],
       "dropout": 0.0}  # fmt: skip

WAN = {"dim": 16, "z_dim": 16, "dim_mult": [1, 2, 2, 2], "num_res_blocks": 1, "temperal_downsample": [False, True, True]}


def sd() -> nn.Module:
    return autoencoders.AutoencoderKL(embed_dim=4, ddconfig=LDM | {"z_channels": 4})


def flux() -> nn.Module:
    sizes = {"params": LDM | {"z_channels": 16}}
    return autoencoders.AutoencodingEngine(
        regularizer_config={"target": "comfy.ldm.models.autoencoder.DiagonalGaussianRegularizer"},
        encoder_config={"target": "comfy.ldm.modules.diffusionmodules.model.Encoder", **sizes},
        decoder_config={"target": "comfy.ldm.modules.diffusionmodules.model.Decoder", **sizes},
    )


def flux2() -> nn.Module:
    return autoencoders.AutoencoderKL(embed_dim=4, ddconfig=LDM | {"z_channels": 4, "batch_norm_latent": True})


def taesd() -> nn.Module:
    return comfy.taesd.taesd.TAESD(latent_channels=16)


def taesd_of_flux2() -> nn.Module:
    vae = comfy.taesd.taesd.TAESD(latent_channels=128)
    if vae.taesd_decoder(torch.zeros(1, 128, 1, 1)).shape[-1] != 16:
        skip_without("tiny VAE of FLUX.2")
    return vae


def stage_a() -> nn.Module:
    return comfy.ldm.cascade.stage_a.StageA(bottleneck_blocks=2, c_hidden=32)


def wan() -> nn.Module:
    return comfy.ldm.wan.vae.WanVAE(**WAN)


def wan22() -> nn.Module:
    return comfy.ldm.wan.vae2_2.WanVAE(dec_dim=16, **WAN)


# Four frames before the last stages: torch 2.11 gets the gradients of a bfloat16 convolution of two wrong on a CPU.
FRAMES = {"num_res_blocks": 0, "block_out_channels": [32, 32, 32, 32, 64], "ffactor_spatial": 16, "ffactor_temporal": 4}


def hunyuan_image() -> nn.Module:
    return hunyuan("vae", block_out_channels=[32, 32, 64, 64], ffactor_spatial=8)


def hunyuan_image_refiner() -> nn.Module:
    return hunyuan("vae_refiner", **FRAMES, refiner_vae=False)


def hunyuan_video() -> nn.Module:
    return autoencoders.AutoencoderKL(embed_dim=16, ddconfig=LDM | {"z_channels": 16, "conv3d": True, "time_compress": 4})


def hunyuan_video_1_5() -> nn.Module:
    return hunyuan("vae_refiner", "EmptyRegularizer", **FRAMES)


def hunyuan(module: str, regularizer: str = "DiagonalGaussianRegularizer", **sizes: object) -> nn.Module:
    small = {"in_channels": 3, "out_channels": 3, "z_channels": 16, "num_res_blocks": 1}
    sizes = {"params": small | sizes}
    return autoencoders.AutoencodingEngine(
        regularizer_config={"target": f"comfy.ldm.models.autoencoder.{regularizer}"},
        encoder_config={"target": f"comfy.ldm.hunyuan_video.{module}.Encoder", **sizes},
        decoder_config={"target": f"comfy.ldm.hunyuan_video.{module}.Decoder", **sizes},
    )


def ltx(**settings: object) -> nn.Module:
    blocks = [["res_x", 1], ["compress_all", {}], ["res_x", 1], ["compress_all", {}], ["compress_time", {}], ["res_x", 1]]
    config = {"dims": 3, "latent_channels": 128, "blocks": blocks, "norm_layer": "pixel_norm", "patch_size": 4, "latent_log_var": "uniform",
              "encoder_base_channels": 16, "decoder_base_channels": 16}  # fmt: skip
    module = comfy.ldm.lightricks.vae.causal_video_autoencoder.VideoVAE(config=config | settings)
    for name, buffer in module.per_channel_statistics.named_buffers():
        buffer.fill_(float(name == "std-of-means"))
    return module


def ltx_told_a_time() -> nn.Module:
    """As newer ones are. They add noise to the latent, which is left out here so that two decodes are equal."""
    return ltx(timestep_conditioning=True, decode_noise_scale=0.0)


# Of each: what makes it, the latent's channels, its dimensions, and the pixels a side of a latent cell.
KINDS = {
    "sd": (sd, 4, 2, 8),
    "flux": (flux, 16, 2, 8),
    "flux2": (flux2, 16, 2, 16),
    "taesd": (taesd, 16, 2, 8),
    "taesd of flux.2": (taesd_of_flux2, 128, 2, 16),
    "stage a": (stage_a, 4, 2, 4),
    "wan": (wan, 16, 3, 8),
    "wan 2.2": (wan22, 16, 3, 16),
    "hunyuan image": (hunyuan_image, 16, 2, 8),
    "hunyuan image refiner": (hunyuan_image_refiner, 16, 3, 16),
    "hunyuan video": (hunyuan_video, 16, 3, 8),
    "hunyuan video 1.5": (hunyuan_video_1_5, 16, 3, 16),
    "ltx": (ltx, 128, 3, 16),
    "ltx told a time": (ltx_told_a_time, 128, 3, 16),
}


def ltx_that_adds_noise() -> nn.Module:
    """As that of LTX 0.9.1 does between its layers, so that no two of its decodes are equal."""
    return ltx(decoder_blocks=[["res_x", {"num_layers": 1, "inject_noise": True}], ["compress_all", {}], ["compress_all", {}], ["compress_time", {}]])


UNTUNABLE = {"ltx 0.9.1": (ltx_that_adds_noise, 128, 3, 16)}


def frames_to_one(kind: str) -> int:
    """How many frames of a video are one latent frame; the first is alone."""
    return 8 if kind.startswith("ltx") else 4


# It draws every picture four times.
SLOW = "hunyuan image refiner"


@pytest.fixture(autouse=True)
def few_probes(monkeypatch):
    """These pictures have fewer cells than what memory is measured on."""
    monkeypatch.setattr(plan, "PROBES", (2, 4))


def vae_of(kind: str) -> comfy.sd.VAE:
    """A VAE object of the host around a small random model of a kind, made in inference mode as in a running workflow."""
    make, channels, dimensions, ratio = (KINDS | UNTUNABLE)[kind]
    vae = comfy.sd.VAE(sd={}, config={"params": {"embed_dim": 4, "ddconfig": LDM | {"z_channels": 4}}})
    torch.manual_seed(0)
    with torch.inference_mode():
        module = make().eval()
        # The host's layers leave their weights as memory was.
        for name, weight in module.named_parameters():
            if weight.ndim > 1:
                weight.normal_(std=weight[0].numel() ** -0.5)
            else:
                weight.fill_(0.0 if name.endswith(("bias", "shift")) else 1.0)
    vae.first_stage_model, vae.latent_channels, vae.latent_dim, vae.size = module, channels, dimensions, None
    # What ComfyUI says of every TAESD, right or wrong.
    vae.upscale_ratio = vae.downscale_ratio = 8 if kind.startswith("taesd") else ratio
    if kind == "stage a":
        vae.process_input = vae.process_output = lambda image: image
    if dimensions == 3:
        times = frames_to_one(kind)
        vae.upscale_ratio = (lambda frames: max(0, frames * times - times + 1), ratio, ratio)
        vae.downscale_ratio = (lambda frames: (frames + times - 1) // times, ratio, ratio)
        vae.upscale_index_formula = vae.downscale_index_formula = (times, ratio, ratio)
        vae.memory_used_decode = lambda shape, dtype: 2200 * shape[3] * shape[4] * 64 * 4
    vae.patcher = comfy.model_patcher.ModelPatcher(module, load_device=vae.device, offload_device=torch.device("cpu"))
    return vae


def latent(kind: str, side: int) -> torch.Tensor:
    channels, dimensions = KINDS[kind][1:3]
    shape = (1, channels, side, side) if dimensions == 2 else (1, channels, 1, side, side)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def latent_of(kind: str, pixels: int) -> torch.Tensor:
    """Of a picture so many pixels a side."""
    return latent(kind, pixels // KINDS[kind][3])


@pytest.mark.parametrize("kind", KINDS)
def test_tiles_together_draw_what_the_whole_decoder_draws(kind):
    """The stages, the receptive field and the held norms are right: nothing differs, at the tiles' edges or at the frame's."""
    vae, z = vae_of(kind), latent_of(kind, 160)
    with torch.inference_mode():
        tail, decode = tail_of(vae), decode_of(vae)
        whole = decode(z)
        m = torch.zeros(1, *whole.shape[-2:])
        m[:, 8:-40, 60:-8] = 1
        x_hat, found = look_at(decode, tail, z, z, torch.zeros_like(whole), m, Region(m).nearby(8), (m > 0).float(), 32)
        assert torch.equal(x_hat, whole) and len(found) > 4
        picture = draw(tail, found, torch.zeros_like(whole), 1, lambda y: y)
    inside = (m > 0)[:, None].expand_as(whole)
    assert (picture - whole)[inside].abs().max() < 2e-5 * whole.abs().max()


@pytest.mark.parametrize("kind", KINDS)
def test_a_crop_sees_no_more_than_it_must(kind):
    """With one cell less around it, its edge comes out wrong: the receptive field is not larger than it is said to be, by more than the rounding."""
    vae, z = vae_of(kind), latent_of(kind, 128)
    with torch.inference_mode():
        tail = tail_of(vae)
        whole, h, statistics = enter(decode_of(vae), tail, z)
        need, scale = tail.needs[0], tail.scale
        less = min(3, need)
        inside = (..., slice(need * scale, -need * scale), slice(need * scale, -need * scale))
        with held(tail) as hold:
            hold(statistics)
            right = tail.decode(h, (need,) * 4)
            short = tail.decode(h[..., less:-less, less:-less], (need - less,) * 4)
    assert torch.allclose(right, whole[inside], atol=1e-5) and (short - right).abs().max() > 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["decoder weights", "latent", "paste"])
def test_the_node_takes_every_image_vae(kind, method):
    vae, z = vae_of(kind), latent_of(kind, 48)
    side = 48
    image, mask = torch.rand(1, side, side, 3), torch.zeros(1, side, side)
    mask[:, 16:32, 16:32] = 1
    fit = {"iterations": 2, "learning_rate": 1e-4, "background_weight": 100.0} if method != "paste" else {}
    fit |= {"surroundings": 8} if method == "decoder weights" else {}
    before = [weight.clone() for weight in vae.first_stage_model.state_dict().values()]
    with torch.inference_mode():
        picture, _, report = DecoderFinetuneReconstruct.execute({"samples": z}, vae, image, mask, {"method": method, **fit}).args
    assert picture.shape == image.shape and torch.isfinite(picture).all() and report.startswith(method)
    assert torch.equal(picture[:, :2], image[:, :2]) or method == "latent"
    assert all(torch.equal(a, b) for a, b in zip(before, vae.first_stage_model.state_dict().values(), strict=True))


@pytest.mark.parametrize("said", [1, 4, 8, 32])
def test_sizes_are_those_of_the_picture_and_the_latent_whatever_a_vae_says_of_itself(said):
    """A picture whose latent leaves pixels over, which VAE Encode crops."""
    vae, z = vae_of("taesd of flux.2"), latent_of("taesd of flux.2", 48)
    vae.upscale_ratio = vae.downscale_ratio = said
    image, mask = torch.rand(1, 50, 55, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 50, 55)
    mask[:, 17:33, 19:35] = 1
    fit = {"method": "decoder weights", "iterations": 2, "learning_rate": 1e-4, "background_weight": 100.0}
    with torch.inference_mode():
        picture = DecoderFinetuneReconstruct.execute({"samples": z}, vae, image, mask, fit).args[0]
    outside = (mask == 0)[:, 1:49, 3:51]
    assert picture.shape == (1, 48, 48, 3) and torch.equal(picture[outside], image[:, 1:49, 3:51][outside])
    with pytest.raises(ValueError, match="image is 24x24, but samples decode to 48x48: connect the picture that was encoded"):
        DecoderFinetuneReconstruct.execute({"samples": z}, vae, image[:, :24, :24], mask[:, :24, :24], {"method": "paste"})


@pytest.mark.parametrize("kind", ["sd", "stage a"])
def test_without_a_step_the_edit_is_as_decoded(kind):
    """Whether the VAE draws in -1..1 or in 0..1."""
    vae, image, mask = vae_of(kind), torch.rand(1, 48, 48, 3), torch.zeros(1, 48, 48)
    mask[:, 16:32, 16:32] = 1
    fit = {"iterations": 0, "learning_rate": 1e-4, "background_weight": 100.0}
    with torch.inference_mode():
        methods = [{"method": "paste"}, {"method": "decoder weights", **fit}, {"method": "latent", **fit}]
        pictures = (DecoderFinetuneReconstruct.execute({"samples": latent_of(kind, 48)}, vae, image, mask, method).args[0] for method in methods)
        plain, *fitted = (picture[:, 16:32, 16:32].clamp(0, 1) for picture in pictures)
    assert all(torch.allclose(one, plain, atol=1e-4) for one in fitted)


def refused(vae: comfy.sd.VAE, method: str, z: torch.Tensor, image: torch.Tensor) -> str:
    """What the user reads."""
    mask = torch.zeros(image.shape[:3])
    mask[:, :24] = 1
    with torch.inference_mode(), pytest.raises(ValueError) as error:
        DecoderFinetuneReconstruct.execute({"samples": z}, vae, image, mask, {"method": method, **SETTINGS[method]})
    return str(error.value)


FIT = {"iterations": 2, "learning_rate": 1e-4, "background_weight": 100.0}
SETTINGS = {"decoder weights": FIT, "latent": FIT, "paste": {}, "colour fit": {}, "poisson": {},
            "auto": {"target_background": 0.0, "target_seam": 0.0, "memory_budget": 0.0}}  # fmt: skip


def pixel_space() -> tuple[comfy.sd.VAE, torch.Tensor, torch.Tensor]:
    """The host's own, with the latent of an edit and the source: both are pictures."""
    image = torch.rand(1, 48, 48, 3, generator=torch.Generator().manual_seed(0))
    return comfy.sd.VAE(sd={"pixel_space_vae": torch.tensor(1.0)}), image.movedim(-1, 1).flip(-1) * 2 - 1, image


@pytest.mark.parametrize("method", ["decoder weights", "latent"])
def test_a_vae_that_cannot_be_tuned_is_refused_and_the_sentence_names_what_works(method):
    vae, z, image = pixel_space()
    sentence = refused(vae, method, z, image)
    assert "vae is a PixelspaceConversionVAE, whose decoder can't be tuned: use method paste, colour fit, poisson or auto, or an image VAE" in sentence
    assert sentence.count(". ") == 0


@pytest.mark.parametrize("method", ["paste", "colour fit", "poisson", "auto"])
def test_what_the_sentence_names_does_work(method):
    vae, z, image = pixel_space()
    mask = torch.zeros(1, 48, 48)
    mask[:, 8:24, 8:24] = 1
    with torch.inference_mode():
        picture, same, report = DecoderFinetuneReconstruct.execute({"samples": z}, vae, image, mask, {"method": method, **SETTINGS[method]}).args
    assert same is vae and torch.equal(picture[:, 24:], image[:, 24:]) and not torch.equal(picture, image)
    assert ("Skipped decoder weights: vae is a PixelspaceConversionVAE" in report) == (method == "auto")


@pytest.mark.parametrize("method", SETTINGS)
@pytest.mark.parametrize("kind", ["sound", "music", "shape"])
def test_sound_and_shapes_are_refused_by_every_method(kind, method):
    """With what the host sets for them; it is the VAE that is wrong, not the picture, which such a VAE would crop to nothing."""
    vae = vae_of("sd")
    if kind == "shape":
        vae.first_stage_model = comfy.ldm.hunyuan3d.vae.ShapeVAE(num_latents=8, embed_dim=8, width=16, heads=2, num_decoder_layers=1, num_encoder_layers=1)
        vae.latent_dim = 1
    else:
        vae.first_stage_model = comfy.ldm.audio.autoencoder.AudioOobleckVAE(channels=8, latent_dim=8)
        vae.latent_dim, vae.output_channels, vae.pad_channel_value = 1 if kind == "sound" else 2, 2, "replicate"
        vae.upscale_ratio = vae.downscale_ratio = 2048
    name = type(vae.first_stage_model).__name__
    assert refused(vae, method, latent("sd", 6), torch.rand(1, 48, 48, 3)) == f"vae is a {name}, which doesn't decode to pictures: connect an image VAE."


def test_a_video_latent_needs_its_frame():
    samples = {"samples": latent("flux", 8)}
    with pytest.raises(ValueError, match="but must be .batch, channels, frames, height, width. for this VAE"):
        DecoderFinetuneReconstruct.execute(samples, vae_of("wan"), torch.rand(1, 64, 64, 3), torch.zeros(1, 64, 64), {"method": "paste"})


def test_tiles_cover_what_is_wanted_and_only_that():
    wanted = torch.zeros(64, 96, dtype=torch.bool)
    wanted[5:12, 7:80] = wanted[50:60, 8:9] = True
    covered = torch.zeros_like(wanted)
    for tile in tiles_over(wanted, 16, 4, 3):
        assert not covered[tile.pixels].any(), "no pixel twice"
        covered[tile.pixels] = True
        assert wanted[tile.pixels].any()
        for axis in (0, 1):
            before, after = tile.halo[2 * axis : 2 * axis + 2]
            assert tile.cells[axis].start * 4 == tile.pixels[axis].start - 4 * before and tile.cells[axis].stop * 4 == tile.pixels[axis].stop + 4 * after
    assert covered[wanted].all()
    assert tiles_over(torch.zeros_like(wanted), 16, 4, 3) == []


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != SLOW])
def test_each_of_a_batch_comes_out_as_alone(kind):
    """With sources and masks of their own, each has a fit of its own."""
    vae, side = vae_of(kind), 48
    z = torch.cat([latent_of(kind, 48), -latent_of(kind, 48), latent_of(kind, 48).flip(-1)])
    image, mask = torch.rand(3, side, side, 3, generator=torch.Generator().manual_seed(4)), torch.zeros(3, side, side)
    mask[0, 16:32, 16:32] = mask[1, :20, 24:40] = mask[2, 8:40, 30:] = 1
    fit = {"method": "decoder weights", "iterations": 3, "learning_rate": 1e-3, "background_weight": 100.0}
    with torch.inference_mode():
        together, returned, report = DecoderFinetuneReconstruct.execute({"samples": z}, vae, image, mask, fit).args
        for i in range(3):
            rows = slice(i, i + 1)
            alone = DecoderFinetuneReconstruct.execute({"samples": z[rows]}, vae, image[rows], mask[rows], fit).args[0]
            assert torch.allclose(together[rows], alone, atol=1e-5)
    assert "diverged" not in report and all(f"Picture {i}: 3 steps" in report for i in (1, 2, 3))
    assert returned is vae and "the vae output is your own VAE" in report


def test_candidates_of_the_same_source_and_mask_share_a_fit_in_whatever_order_they_come():
    vae, z = vae_of("sd"), latent_of("sd", 48)
    z = torch.cat([z, -z, z.flip(-1), z.flip(-2)])
    image, mask = torch.rand(1, 48, 48, 3, generator=torch.Generator().manual_seed(4)), torch.zeros(4, 48, 48)
    image = torch.cat([image, 1 - image, image, image])
    mask[:, 16:32, 16:32] = 1
    mask[3] = 0
    fit = {"method": "decoder weights", "iterations": 4, "learning_rate": 1e-3, "background_weight": 100.0}
    with torch.inference_mode():
        picture, _, report = DecoderFinetuneReconstruct.execute({"samples": z}, vae, image, mask, fit).args
        pair = DecoderFinetuneReconstruct.execute({"samples": z[[0, 2]]}, vae, image[:1], mask[:1], fit).args[0]
    assert torch.allclose(picture[[0, 2]], pair, atol=1e-5) and torch.equal(picture[3], image[3])
    assert "Picture 1, 3: 4 steps" in report and "Picture 2: 4 steps" in report and "Picture 4: The mask is empty" in report
