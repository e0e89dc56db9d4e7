"""Model x images -> one row of PSNR and SSIM per image and scale; and statistics over rows.

Takes a model and test sets, gives `results/<profile>/rows/<run>.csv`. Read `benchmark` first.
"""
