"""The command line `ahi`. Belongs here: one module for each command, and how answers are printed.

Does not belong here: anything that the pipeline itself needs.
"""
