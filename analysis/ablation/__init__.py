"""Losses of a study against the settings that it sweeps."""
