"""Benchmarks of a checkout, run by tools/bench: ratios against bare loops, within one run.

Each subject is a module that adds one command to benchmarks.__main__.
"""
