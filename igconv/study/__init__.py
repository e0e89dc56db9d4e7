"""What is run and where its results are: decides everything, measures nothing.

Read `runs` first: the one table of all trainings. `run` is one of them, `comparisons` says which are compared,
`results` where their files lie, `labels` what people call them.
"""
