"""What the paper claims about encoders, kernels, spectra and cost, measured on trained or published models.

Takes models and images, gives tidy tables. `similarity`, `ridge`, `correlation`, `alignment`, `spectrum` and
`efficiency` are estimators; `encoders`, `kernels`, `spectra` and `costs` apply them to the networks of a study and put
the tables into words. Read `ridge` first, for what a closed-form head
tells of an encoder, then `similarity` and `correlation`.
"""
