"""Analyses behind the paper's claims: encoder similarity, SPConv correlation, spectral bias, efficiency."""
