"""Independent random streams, each named by what it is drawn for."""

import hashlib
import json


def seed_stream(*parts: str | int) -> int:
    """The 64-bit seed of the stream that `parts` name, e.g. `("levy", 0, "adapt.noise")`.

    It is the head of a SHA-256, so it is the same on every machine and Python version, and streams
    whose parts differ in anything (`1` and `"1"` too) are unrelated.
    """
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big")
