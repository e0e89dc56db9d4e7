"""From a fixed-scale network to all scales: a frozen encoder in, an IGConv that reads its features out.

Takes a network with its head and photographs; gives a `SuperResolver` for any integer scale. Read `convert` first,
then the way of the numbers: `sources` (what was given) -> `sums` (over crops) -> `closed_form` (an SPConv
per scale) -> `hyperfit` (one function through all of them).
"""
