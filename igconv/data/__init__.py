"""Files on disk or on the network -> images in memory, and (LR, HR) patches of them.

Takes names of image sets, gives uint8 tensors (3, H, W). Read `datasets` first, then `patches`.
"""
