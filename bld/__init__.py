"""Blended Latent Diffusion (Avrahami, Fried, Lischinski, SIGGRAPH 2023) as pure functions on torch tensors.

Nothing here knows of ComfyUI. Pictures are (B, C, H, W), masks (B, H, W) with 1 = edit, latents (B, C, h, w). Symbols are
the paper's: x source picture, d prompt, m mask, z latent, D decoder, x_hat edited picture, lam the weight of the background.
"""
