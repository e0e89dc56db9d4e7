"""Notebooks and the order they run in. Takes a profile, gives its finished results folder by Snakemake over papermill.

Read `driver` first; the order itself is in the Snakefile.
"""
