"""Section "files": the files of the run, and the verification of exported files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

from rfquant_jax.report.markup import Column, Markup, join, table, tag
from rfquant_jax.report.numbers import digits, fixed, size
from rfquant_jax.report.run_files import RunFiles

# Content of files, by path or folder, in the order of the table.
_MEANING = {
    "results.json": "accuracies on the test images",
    "search": "searched configurations, the profile, records for resuming",
    "export": "exported models",
    "export.json": "how exported models compare with the evaluation",
    "evaluations": "single configurations on the test images",
    "frontier.json": "the frontier",
    "frontier.png": "the frontier, picture",
    "sensitivity.json": "sensitivity of each layer",
    "sensitivity.png": "sensitivities, picture",
    "surrogate.json": "quality of the surrogate",
    "bits.png": "bits of each layer, picture",
    "statistics": "recalibrated BatchNorm of the evaluated configurations, for predictions",
    "predictions.csv": "predicted classes of the task predict",
    "command.json": "the command of this run",
    "config.json": "the resolved config",
    "metrics.jsonl": "losses, rates, accuracies, frozen bit-widths",
    "log.txt": "messages",
    "tensorboard": "the same numbers for TensorBoard",
    "checkpoints": "weights, step sizes, statistics",
}
_LISTED = ("search", "export", "evaluations")  # folders whose files are listed one by one
_MOST_LISTED = 40  # a folder with more files gets one row
_LEFT_OUT = ("lock", "report.html")


def files(run: RunFiles) -> Markup:
    """The section's content."""
    columns = [Column("file", False), Column("holds", False), Column("size")]
    rows = sorted(_entries(run.workdir), key=_order)
    body = [[_link(name), meaning, size(count)] for name, meaning, count in rows]
    return join([table(columns, body, label="Files of the run"), *_exported(run)])


def _entries(workdir: Path) -> Iterator[tuple[str, str, int]]:
    """(path within the workdir, contents, bytes) of each row: a file, or a folder of files."""
    for entry in os.scandir(workdir):
        if entry.name in _LEFT_OUT or entry.name.endswith(".tmp"):
            continue
        meaning = _MEANING.get(entry.name, "")
        if not entry.is_dir(follow_symlinks=False):
            yield entry.name, meaning, entry.stat(follow_symlinks=False).st_size
            continue
        found = list(_walk(Path(entry.path)))
        if entry.name in _LISTED and len(found) <= _MOST_LISTED:
            for path, count in found:
                yield path.relative_to(workdir).as_posix(), meaning, count
        else:
            noun = "file" if len(found) == 1 else "files"
            about = f"{meaning or 'other'} ({len(found)} {noun})"
            yield f"{entry.name}/", about, sum(count for _, count in found)


def _walk(folder: Path) -> Iterator[tuple[Path, int]]:
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            yield path, path.lstat().st_size


def _order(row: tuple[str, str, int]) -> tuple[int, str]:
    known = list(_MEANING)
    first = row[0].split("/")[0]
    return (known.index(first) if first in known else len(known), row[0])


def _link(name: str) -> Markup:
    # The page is in the same folder. "./" prevents a colon in a name from being parsed as a scheme.
    return tag("a", tag("code", name), href="./" + quote(os.fsencode(name)))


def _exported(run: RunFiles) -> Iterator[Markup]:
    """The table of `export.json`, if the task export was run."""
    content = run.optional("export.json") or run.optional("export/export.json")
    if not content:
        return
    columns = [Column("exported file", False), Column("format", False), Column("size")]
    columns += [Column("float32 / this"), Column("top-1 (%)")]
    columns += [Column("equal predictions (%)"), Column("verified", False)]
    rows = [
        _export_row(row, kind, result.get("verified"))
        for result in content["configurations"].values()
        for kind, row in result["formats"].items()
    ]
    if bundle := content.get("bundle"):
        rows.append(_export_row(bundle, "bundle", bundle.get("verified")))
    yield tag("h3", "Exported models")
    yield table(columns, rows, label="Exported models")


def _export_row(row: Mapping, kind: str, verified: bool | None) -> list[object]:
    return [
        _link(row["file"]),
        kind,
        size(row["bytes"]),
        fixed(row.get("ratio"), 2),
        fixed(row.get("top1"), digits(row.get("images"))),
        fixed(row.get("equal_percent"), 2),
        {True: "yes", False: "no: must not be used"}.get(verified, "not recorded"),
    ]
