"""What `export` returns, and how it verifies a file that it has written."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from flax import nnx

from rfquant_jax.data.arrays import Images, image_batches
from rfquant_jax.data.loader import fill_up
from rfquant_jax.errors import UserError
from rfquant_jax.evaluate.recalibrate import Recalibrate
from rfquant_jax.export.format_names import STABLEHLO
from rfquant_jax.export.ir.model import IntegerModel
from rfquant_jax.export.verify.reference import ReferenceModel
from rfquant_jax.export.verify.runners import Runner
from rfquant_jax.export.verify.verify import LARGEST_BATCH, Limits, compare_files, disagreements
from rfquant_jax.quant.coupled_network import CoupledNetwork

# Images to verify on; None: those of the BatchNorm statistics; False: files are not verified.
Verify = Images | Literal[False] | None
MOST_IMAGES, MOST_CODE_IMAGES = 1000, 100  # to compare predictions, and codes of every layer, on


@dataclass(frozen=True)
class ExportedFile:
    """A file that `export` has written; it can be passed wherever a path is accepted.

    Attributes:
      path: the file.
      verified: whether it was run and gave the predictions of the evaluation.
      note: "verified", or "not verified" and the reason.
    """

    path: Path
    verified: bool
    note: str

    def __fspath__(self) -> str:
        return os.fspath(self.path)


@dataclass(frozen=True)
class Made:
    """An integer model and the network, in evaluation mode, that it was made from."""

    model: IntegerModel
    network: nnx.Module


# check(file, what it was written from, opens its runner by format) -> the file and its verification
Check = Callable[[Path, Made, Callable[[], Mapping[str, Runner]]], ExportedFile]


def _unverified(reason: str) -> Check:
    return lambda file, *_: ExportedFile(file, False, f"not verified: {reason}")


def verification(
    coupled: CoupledNetwork,
    kind: str,
    verify: Verify,
    recalibrate: Recalibrate,
    platforms: Sequence[str],
    limits: Limits,
) -> Check:
    """How `export` verifies its files; see there for the arguments."""
    if verify is False:
        return _unverified("`verify` is False")
    if kind == STABLEHLO and "cpu" not in platforms:
        return _unverified("`platforms` lacks cpu, where artifacts are verified")
    if verify is None and recalibrate is not False:
        verify = recalibrate
    if verify is None and not len(coupled.shared.calibration):  # a network from `load`
        return _unverified("there are no images; `verify` takes some")
    return _verifier(coupled, kind, verify, limits)


def _verifier(coupled: CoupledNetwork, kind: str, images: Any, limits: Limits) -> Check:
    """The verification of files of one format on the given images."""
    given = coupled.shared.calibration if images is None else images
    joined = np.concatenate(image_batches(given))[:MOST_IMAGES]
    preprocess = jax.jit(coupled.preprocess)

    def batches(most: int) -> Iterator[dict[str, np.ndarray]]:
        size = min(LARGEST_BATCH, len(joined))
        for start in range(0, min(most, len(joined)), size):
            part = joined[start : min(start + size, most)]
            # Labels are not known here and not used; -1 marks what fills up the last batch.
            batch = fill_up({"image": part, "label": np.zeros(len(part), np.int32)}, size)
            image = np.asarray(preprocess(batch["image"]), np.float32)
            yield {"image": image, "label": batch["label"]}

    def check(file: Path, made: Made, runners: Callable) -> ExportedFile:
        found = compare_files(
            [kind],
            runners(),
            made.model,
            made.model.stored(),
            (ReferenceModel(made.network), ReferenceModel(made.network, np.float64)),
            partial(batches, MOST_IMAGES),
            partial(batches, MOST_CODE_IMAGES),
        )
        for reason in disagreements(limits, found):
            raise UserError(f"{file}: is not to be used: {reason}")
        missing = found["formats"][kind].get("not_verified")
        note = f"not verified: {missing}" if missing else "verified"
        return ExportedFile(file, missing is None, note)

    return check
