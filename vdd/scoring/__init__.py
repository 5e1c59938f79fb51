"""Answers in, figures out: each benchmark's own rules, and what may be said about the difference of two runs.

Knows: text, labels, NumPy. Does not know: torch, models, how answers came about.
"""
