"""Preference data from a model's own bias, and the training that removes it (extra `train` for the training)."""
