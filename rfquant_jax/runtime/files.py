"""Files: written in one go or line by line, and read without trust in what they hold."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from rfquant_jax.errors import UserError, one_line
from rfquant_jax.runtime.devices import is_first_process

MOST_TEXT = 2**26  # bytes of a file of text; tables of the largest networks have a hundredth
MOST_LEVELS = 100  # of JSON inside JSON; Python itself gives up, or crashes, at some thousand


def user_cache(name: str) -> Path:
    """A folder for what can be made again: below `$XDG_CACHE_HOME`, by default `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rfquant_jax" / name


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write to, which then takes the place of `path`.

    A reader sees the old one or the new one, never a part, whenever the writer is killed. Where
    writing fails the old one stays, and the part takes no room. Of several processes only the first
    one writes: what the others do comes to nothing.
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
        with suppress(OSError):  # the first error is the one to tell
            temporary.unlink(missing_ok=True)
        raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Makes an OSError tell which file it is about: that of a full disk does not."""
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
    """The text of a file that somebody else may have written.

    Raises:
      OSError: it cannot be read.
      UnicodeDecodeError: it is no text.
      UserError: it is too large to be what is looked for.
    """
    with open(path, "rb") as file:
        content = file.read(MOST_TEXT + 1)
    if len(content) > MOST_TEXT:
        raise UserError(f"{path}: is larger than {MOST_TEXT >> 20} MiB, the most that is read")
    return content.decode(encoding)


def parse_json(text: str) -> object:
    """The content of JSON that somebody else may have written.

    Raises:
      ValueError: it is not JSON, or has a name twice in one object, or is nested too deeply. The
        text is of one line.
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
    """A file of JSON lines that grows: what was found before stays, whenever the writer is killed.

    Args:
      path: its folder is created.
      header: the first line, what all others depend on; a file with another one is forgotten.
      valid: whether a line is one of this record; it ends before the first that is not.

    Attributes:
      lines: behind the header.
    """

    def __init__(self, path: Path, header: dict, valid: Callable[[dict], bool]):
        self._path, self._header = path, header
        # Every process keeps the lines; the first one writes them down.
        self._writes = is_first_process()
        path.parent.mkdir(parents=True, exist_ok=True)
        found = _whole_lines(path, valid)
        self.lines: list[dict] = found[1:] if found[:1] == [header] else []
        self._rewrite()

    def append(self, line: dict) -> None:
        """Adds a line, on disk, too."""
        self.lines.append(line)
        if self._writes:
            append(self._path, json.dumps(line) + "\n")

    def cut(self, count: int) -> None:
        """Keeps the first so many lines."""
        del self.lines[count:]
        self._rewrite()

    def _rewrite(self) -> None:
        # In one go, because the last line of a killed program may be cut short.
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
