"""Sampling: the mask of each model call, the noise around it, the candidates, their pruning and the blend in pixels.

ComfyUI already blends at every model call: before the call with the source noised to the call's sigma, after it with the source
itself, and through the model's own `scale_latent_inpaint`, so every family of models keeps its own way of noising. The method
only chooses which mask (`stages.py`) and which noise (`noise.py`) each call gets.
"""
