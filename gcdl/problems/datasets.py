"""Data sets on disk, read without a download and without torch.

A :class:`Dataset` says how many samples there are and reads the ones asked for, so that a worker keeps its shards only.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gcdl.errors import DataError
from gcdl.types import IntVector, Stream, rng_for

Images = NDArray[np.uint8]
"""(samples, height, width), grey levels."""
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Part:
    """The training or the test part of a data set: ``images`` as stored, ``labels`` 0 .. classes-1."""

    images: Images
    labels: Labels

    def take(self, indices: IntVector) -> Part:
        """Return a copy of these samples and no others."""
        return Part(self.images[indices], self.labels[indices])


@dataclass(frozen=True)
class Dataset:
    """Where a data set's parts come from, and how its grey levels map to numbers near zero."""

    name: str
    shape: tuple[int, int]
    classes: int
    brightest: float
    train_size: int
    load_train: Callable[[], Part]
    load_test: Callable[[], Part]


def digits(data: str) -> Dataset:
    """Return scikit-learn's handwritten digits: 1797 images of 8 x 8, 360 of them held out for testing.

    The images held out are drawn at random, and are the same for every seed. The file is ordered by writer, so its last
    images would be unlike the rest. ``data`` is not used. The CSV file is read from the installed package: importing
    scikit-learn in each of n ranks would take longer than the rest of the start-up.
    """
    train_size = 1437

    def load(part: slice) -> Part:
        spec = find_spec("sklearn")
        if spec is None or not spec.submodule_search_locations:
            raise DataError("problem.dataset: digits needs scikit-learn; pip install scikit-learn")
        path = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
        try:
            table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
        except (OSError, ValueError) as error:
            raise DataError(f"problem.dataset: cannot read scikit-learn's digits at {path}: {error}") from error
        table = table[rng_for(0, Stream.DATA).permutation(len(table))[part]]
        return Part(table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64))

    return Dataset(
        "digits", (8, 8), 10, 16.0, train_size,
        lambda: load(slice(None, train_size)), lambda: load(slice(train_size, None)),
    )  # fmt: skip


def fashion_mnist(data: str) -> Dataset:
    """Return Fashion-MNIST (Xiao, Rasul and Vollgraf 2017): 60,000 + 10,000 images of 28 x 28, from IDX files.

    ``data`` is the folder of the four files, gzipped or not, under their usual names.

    Raises
    ------
    DataError : the folder or a file is missing, truncated, or no IDX file of this kind.
    """
    if not data:
        raise DataError("problem.data: fashion_mnist needs the folder of its IDX files (train-images-idx3-ubyte.gz, ...)")
    try:
        folder = Path(data).expanduser()
    except RuntimeError as error:  # ~nobody
        raise DataError(f"problem.data: {data}: {error}") from None
    if not folder.is_dir():
        raise DataError(f"problem.data: there is no folder {folder}")

    def load(stem: str) -> Part:
        images = _idx(folder, f"{stem}-images-idx3-ubyte", 3)
        labels = _idx(folder, f"{stem}-labels-idx1-ubyte", 1)
        if images.shape[1:] != (28, 28):
            raise DataError(f"problem.data: {folder}: {stem} images are {images.shape[1:]}, not 28 x 28")
        if labels.size and labels.max() > 9:
            raise DataError(f"problem.data: {folder}: a {stem} label is {labels.max()}; labels are 0 to 9")
        return Part(images, labels.astype(np.int64))

    # Look at all four now: a missing file should end a run before it starts.
    sizes = {}
    for stem in ("t10k", "train"):
        images = _idx_header(folder, f"{stem}-images-idx3-ubyte", 3)[0]
        sizes[stem] = _idx_header(folder, f"{stem}-labels-idx1-ubyte", 1)[0]
        if images != sizes[stem]:
            raise DataError(f"problem.data: {folder}: {images} {stem} images, but {sizes[stem]} labels")
        if images == 0:
            raise DataError(f"problem.data: {folder}: no {stem} images")
    train_size = sizes["train"]
    return Dataset("fashion_mnist", (28, 28), 10, 255.0, train_size, lambda: load("train"), lambda: load("t10k"))


DATASETS: dict[str, Callable[[str], Dataset]] = {"digits": digits, "fashion_mnist": fashion_mnist}


def _idx_path(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise DataError(f"problem.data: {folder} has no {name} (nor {name}.gz)")


def _idx_header(folder: Path, name: str, dimensions: int) -> tuple[int, ...]:
    """Return the shape an IDX file of unsigned bytes claims: magic 0, 0, 8, dimensions; then big-endian sizes."""
    path = _idx_path(folder, name)
    size = 4 + 4 * dimensions
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(size)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"problem.data: cannot read {path}: {error}") from error
    if len(head) < size or head[:4] != bytes([0, 0, 8, dimensions]):
        raise DataError(f"problem.data: {path} is not an IDX file of {dimensions}-dimensional unsigned bytes")
    return struct.unpack(f">{dimensions}I", head[4:])


def _idx(folder: Path, name: str, dimensions: int) -> NDArray[np.uint8]:
    """Return an IDX file's array: mapped, not read, unless it is gzipped."""
    shape = _idx_header(folder, name, dimensions)
    path = _idx_path(folder, name)
    offset = 4 + 4 * dimensions
    expected = math.prod(shape)
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as file:
                body = np.frombuffer(file.read(), dtype=np.uint8)[offset:]
        else:
            body = np.memmap(path, dtype=np.uint8, mode="r", offset=offset)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DataError(f"problem.data: cannot read {path}: {error}") from error
    if body.size != expected:
        raise DataError(f"problem.data: {path} has {body.size} bytes of data where its header says {expected}")
    return body.reshape(shape)
