"""Figures of a study: loss curves, targets, and what the methods made of them."""
