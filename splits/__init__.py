"""Datasets, splits, and episodes as integers."""
