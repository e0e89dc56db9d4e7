"""What is run and where its results are: decides everything, computes nothing.

Read `runs` first: the one table of all trainings; `results` says where their files lie, `labels` what people call them.
"""
