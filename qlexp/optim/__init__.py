"""Optimisers of a batch of lanes."""
