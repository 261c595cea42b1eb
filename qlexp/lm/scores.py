"""The score by which answers are compared, for whoever has counts alone."""


def smoothed(wrong: float, count: float) -> float:
    """(wrong + 1/2) / (n + 1) of n = `count` answers: the share of wrong ones, never 0 or 1, so
    that it has a logarithm."""
    return (wrong + 0.5) / (count + 1)
