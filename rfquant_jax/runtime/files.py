"""Atomic and append-only file writes, and safe reads of untrusted files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from rfquant_jax.errors import UserError, one_line
from rfquant_jax.runtime.devices import is_first_process

MOST_TEXT = 2**26  # bytes of a text file; tables of the largest networks take a hundredth
MOST_LEVELS = 100  # nesting of JSON; Python fails, or crashes, at some thousand


def user_cache(name: str) -> Path:
    """The cache folder of this package, below `$XDG_CACHE_HOME` or `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rfquant_jax" / name


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file that atomically replaces `path`.

    Readers see the old or the new content, even if the writer is killed. If writing fails, the old
    content remains and the temporary file is deleted. Only process 0 writes; other processes write
    to nothing.
    """
    if not is_first_process():
        with TemporaryDirectory() as folder:
            yield Path(folder) / path.name
        return
    temporary = path.with_name(path.name + ".tmp")
    try:
        with naming(path):
            yield temporary
            temporary.replace(path)
    except BaseException:
        with suppress(OSError):  # report the first error
            temporary.unlink(missing_ok=True)
        raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Adds the file name to an OSError; that of a full disk has none."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def append(path: Path, text: str) -> None:
    """Adds text to a file.

    Raises:
      OSError: it cannot be written; names the file.
    """
    with naming(path), path.open("a", encoding="utf-8") as file:
        file.write(text)


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """The text of an untrusted file.

    Raises:
      OSError: it cannot be read.
      UnicodeDecodeError: it is not text.
      UserError: it is too large.
    """
    with open(path, "rb") as file:
        content = file.read(MOST_TEXT + 1)
    if len(content) > MOST_TEXT:
        raise UserError(f"{path}: is larger than {MOST_TEXT >> 20} MiB, the most that is read")
    return content.decode(encoding)


def parse_json(text: str) -> object:
    """Parses untrusted JSON.

    Raises:
      ValueError: invalid JSON, duplicate names in an object, or excessive nesting; a one-line
        message.
    """
    try:
        content = json.loads(text, object_pairs_hook=_without_repeats)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except ValueError as error:
        raise ValueError(one_line(error)) from error
    level = [content]
    for _ in range(MOST_LEVELS):
        inner = (v.values() if isinstance(v, dict) else v for v in level)
        level = [v for values in inner if not isinstance(values, _LEAVES) for v in values]
    if level:
        raise ValueError("nested too deeply")
    return content


_LEAVES = (str, int, float, type(None))


def _without_repeats(pairs: list[tuple[str, object]]) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(n for n in names if names.count(n) > 1)!r} appears twice")
    return found


class LineRecord:
    """An append-only file of JSON lines that survives a killed writer.

    Args:
      path: path of the file; its folder is created. None: the lines are kept in memory only.
      header: the first line, everything the other lines depend on; a file with another header is
        discarded.
      valid: whether a line is valid; the file is truncated before the first invalid one.

    Attributes:
      lines: the lines after the header.
    """

    def __init__(self, path: Path | None, header: dict, valid: Callable[[dict], bool]):
        self._path, self._header = path, header
        # Every process keeps the lines in memory; process 0 writes them.
        self._writes = path is not None and is_first_process()
        self.lines: list[dict] = []
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        found = _whole_lines(path, valid)
        self.lines = found[1:] if found[:1] == [header] else []
        self._rewrite()

    def append(self, line: dict) -> None:
        """Appends a line, in memory and on disk."""
        self.lines.append(line)
        if self._writes:
            append(self._path, json.dumps(line) + "\n")

    def cut(self, count: int) -> None:
        """Truncates to the first `count` lines."""
        del self.lines[count:]
        self._rewrite()

    def _rewrite(self) -> None:
        if self._path is None:
            return
        # Rewritten atomically, because a killed program may leave a truncated last line.
        with replacing(self._path) as temporary:
            temporary.write_text(
                "".join(json.dumps(line) + "\n" for line in (self._header, *self.lines))
            )


def _whole_lines(path: Path, valid: Callable[[dict], bool]) -> list[dict]:
    lines: list[dict] = []
    for text in path.read_text(errors="replace").splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            break
        if not isinstance(line, dict) or (lines and not valid(line)):
            break
        lines.append(line)
    return lines
