"""Readers of the benchmarks' own files: what a set asks, in its own form."""
