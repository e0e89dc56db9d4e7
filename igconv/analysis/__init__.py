"""What the paper claims about encoders, kernels, spectra and cost, measured on trained or published models.

Takes models and images, gives tidy tables. Read `ridge` first: most of the others rest on closed-form heads.
"""
