"""The files of a run folder: their names, reading lines that are whole, and writing a file at once.

::

    config.toml     the resolved config: running it again is the same run
    manifest.json   versions, host, ranks, commit
    steps.jsonl     a line a step
    timeline.json   Trace Event format: open it in Perfetto (ui.perfetto.dev)
    summary.json    written last: its presence says that the run ended well
    checkpoint/     see gcdl.training.checkpoint_file
    model.pt        the trained model, for torch.load
    .reserved       while the run goes on: room for its result
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gcdl.errors import UsageError

CONFIG, MANIFEST, STEPS, SUMMARY, TIMELINE, MODEL = (
    "config.toml",
    "manifest.json",
    "steps.jsonl",
    "summary.json",
    "timeline.json",
    "model.pt",
)


def whole_lines(folder: Path) -> Iterator[bytes]:
    """Yield the lines of ``steps.jsonl``, without the one that a killed run was writing, if there is such a one."""
    with suppress(FileNotFoundError), (folder / STEPS).open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError of this block into a UsageError."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror or error}") from error


def write_at_once(path: Path, text: str) -> None:
    """Write a small file so that there is never half of it."""
    draft = path.with_name(f".{path.name}.draft")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
