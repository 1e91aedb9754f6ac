"""Metrics: pure functions on plain values, one file each, its source named at its top.

Where a function has ``as_original``, the default is the measure as it is defined, and True what the original's
evaluation computes.
"""
