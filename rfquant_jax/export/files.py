"""Writes the files of one exported configuration, one per format."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from rfquant_jax.errors import RunFailure, UserError
from rfquant_jax.export.format_names import (
    INTEGER,
    NEED_ONNX,
    ONNX,
    ONNX_FAST,
    ONNX_SMALL,
    QONNX,
    STABLEHLO,
    SUFFIXES,
    TFLITE,
    C,
)
from rfquant_jax.export.formats import c, integer, stablehlo, tflite
from rfquant_jax.export.ir.model import IntegerModel


def write_all(
    folder: Path,
    name: str,
    model: IntegerModel,
    formats: Container[str],
    platforms: Sequence[str],
    batch: int = 0,
) -> dict[str, Path]:
    """Writes one configuration in all requested formats except the bundle, and always as integer.

    Args:
      platforms, batch: options of the StableHLO artifact.

    Returns:
      paths by format.
    """
    with writing(folder, "a folder"):
        folder.mkdir(parents=True, exist_ok=True)
    asked = [kind for kind in SUFFIXES if kind in formats or kind == INTEGER]
    paths = {kind: folder / f"{name}{SUFFIXES[kind]}" for kind in asked}
    for kind, path in paths.items():
        write_one(path, kind, name, model, platforms, batch)
    return paths


def write_one(
    path: Path,
    kind: str,
    name: str,
    model: IntegerModel,
    platforms: Sequence[str],
    batch: int = 0,
) -> None:
    """Writes one configuration in one format.

    Args:
      kind: a key of `SUFFIXES`.
      name: of the configuration.
      platforms, batch: of the StableHLO artifact.

    Raises:
      UserError: the file cannot be written.
    """
    writers: dict[str, Callable[[Path], None]] = {
        INTEGER: lambda path: integer.write(path, {name: model}),
        STABLEHLO: lambda path: stablehlo.write(path, model, platforms, batch),
        C: lambda path: c.write(path, model),
        TFLITE: lambda path: tflite.write(path, model),
    }
    if kind in NEED_ONNX:
        writers |= _onnx_writers(model)
    with writing(path, kind):
        writers[kind](path)


def _onnx_writers(model: IntegerModel) -> Mapping[str, Callable[[Path], None]]:
    from rfquant_jax.export.formats import onnx, onnx_fast, qonnx  # onnx may not be installed

    return {
        ONNX: lambda path: onnx.write(path, model, small=False),
        ONNX_SMALL: lambda path: onnx.write(path, model, small=True),
        ONNX_FAST: lambda path: onnx_fast.write(path, model),
        QONNX: lambda path: qonnx.write(path, model),
    }


def writing(path: Path, kind: str) -> AbstractContextManager:
    """Converts any exception of a writer or its libraries into a one-line RunFailure."""
    return explained(f"{path}: cannot be written as {kind}")


@contextmanager
def explained(failure: str) -> Iterator[None]:
    """Converts any exception into a one-line RunFailure that starts with `failure`.

    It may be a bug of ours, so it is not the user's mistake; the cause stays attached.
    """
    try:
        yield
    except (UserError, RunFailure):
        raise
    except Exception as error:  # onnx, onnxruntime, protobuf, safetensors, JAX or the file system
        reason = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
        raise RunFailure(f"{failure} ({reason.splitlines()[0]})") from error
