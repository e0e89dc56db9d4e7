"""LR image and scale -> SR image: encoder, upsampler, and the files that hold their weights.

The paper's idea is in `upsamplers`; read it first, then `hypernetwork` and `super_resolver`.
"""
