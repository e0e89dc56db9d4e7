"""A run of the table of runs -> its weights and records.

Takes images and settings, gives `results/<profile>/runs/<run>/`. Read `loop` first.
"""
