"""Training metrics about the interference between bit-widths.

Losses by kind of pass, how often each layer ran at each bit-width, and the share of weights near a
rounding boundary, where passes at different bit-widths make them oscillate.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from rfquant_jax.nn.functional import Arrays
from rfquant_jax.quant.space import COLUMN_NAMES, WEIGHTS, Space, smallest_bits
from rfquant_jax.runtime import devices
from rfquant_jax.train.state import StepInputs

MAX, SMALLEST, RANDOM = "max", "smallest", "random"
# The max pass has no prefix, so that its metrics have the names of full-precision training.
_PREFIXES = {MAX: "", SMALLEST: "smallest/", RANDOM: "random/"}


def pass_kinds(inputs: StepInputs) -> list[str]:
    """The kind of each pass of a step: `max` for the first, then `smallest` or `random`.

    A pass is `smallest` if every layer runs at the smallest bit-widths allowed in that step.
    """
    _, *others = np.asarray(inputs.configurations)
    return [MAX] + [SMALLEST if (c == inputs.smallest).all() else RANDOM for c in others]


def summarize(metrics: list[Arrays], kinds: Sequence[str]) -> dict[str, float]:
    """Means over devices, micro-batches and passes of a kind.

    Args:
      metrics: of each pass of a step, in order, {name: float32[devices]}.
      kinds: of the passes of each micro-batch, see `pass_kinds`.

    Returns:
      "<name>" for the max pass, "smallest/<name>" and "random/<name>" for the others, if any.
    """
    metrics = devices.fetch(metrics)
    groups: dict[str, list[Arrays]] = {kind: [] for kind in _PREFIXES}
    for number, measured in enumerate(metrics):
        groups[kinds[number % len(kinds)]].append(measured)
    return {
        _PREFIXES[kind] + name: float(np.mean([m[name] for m in group]))
        for kind, group in groups.items()
        if group
        for name in group[0]
    }


class BitCounts:
    """Counts the passes that ran each layer at each bit-width; max passes are not counted.

    Args:
      space: the configurations; without searched layers nothing is counted.
    """

    def __init__(self, space: Space):
        self._space, self._pending = space, []
        self._clear()

    def _clear(self) -> None:
        shape = (len(COLUMN_NAMES), *self._space.full_mask.shape)
        self._passes, self._counts = 0, np.zeros(shape, np.int64)

    def add(self, configurations: jax.Array) -> None:
        """Adds the configurations of a step, int32[1 + K, L, 2], asynchronously."""
        if len(self._space):
            self._pending.append(configurations)

    def drain(self) -> None:
        """Fetches and counts the pending configurations."""
        for configurations in jax.device_get(self._pending):
            chosen = configurations[1:, :, :, None] == np.asarray(self._space.candidates)
            self._counts += chosen.sum(axis=0).swapaxes(0, 1)
            self._passes += len(chosen)
        self._pending.clear()

    def take(self) -> dict:
        """`{"passes": n, "weights": int[L][|B|], "activations": int[L][|B|]}`; resets."""
        state = self.state()
        self._clear()
        return state

    def state(self) -> dict:
        """The same without resetting, JSON, for checkpoints."""
        self.drain()
        named = zip(COLUMN_NAMES, self._counts.tolist(), strict=True)
        return {"passes": self._passes} | dict(named)

    def restore(self, state: Mapping) -> None:
        """Restores the counts that `state` returned."""
        self._clear()
        self._passes = state["passes"]
        self._counts += np.asarray([state[name] for name in COLUMN_NAMES], np.int64).reshape(
            self._counts.shape
        )


def record(space: Space, masks: np.ndarray, counts: Mapping, shares: np.ndarray) -> dict:
    """The record in `metrics.jsonl` for the time since the last evaluation.

    Args:
      masks: the current candidate masks, bool[2, L, |B|].
      counts: from `BitCounts.take`.
      shares: float[L, |B|], share of weights near a rounding boundary at each bit-width.
    """
    allowed = zip(shares.tolist(), space.full_mask.tolist(), strict=True)
    # Absent where activations have the bit-widths of weights.
    own = {} if space.has_one_set else {"activations_allowed": space.activation_mask.tolist()}
    return {
        "event": "interference",
        "bits": list(space.candidates),
        "layers": list(space.names),
        **counts,
        "near_boundary": [
            [round(value, 4) if has else None for value, has in zip(*row, strict=True)]
            for row in allowed
        ],
        "smallest": smallest_bits(masks[WEIGHTS], space.candidates).tolist(),
        **own,
    }


def scalars(content: Mapping) -> dict[str, float]:
    """Scalars of `record` for plots: shares of passes, and of weights at the smallest bit-width."""
    values = {}
    for index, layer in enumerate(content["layers"]):
        for column in COLUMN_NAMES:
            for bits, count in zip(content["bits"], content[column][index], strict=True):
                values[f"sampled/{layer}/{column[0]}{bits}"] = count / max(content["passes"], 1)
        least = content["bits"].index(content["smallest"][index])
        values[f"near_boundary/{layer}"] = content["near_boundary"][index][least]
    return values


def charts(task: str, space: Space) -> dict[str, dict[str, list[str]]]:
    """How TensorBoard combines a training's curves, see `RunLog.dashboard`."""
    losses = [re.escape(f"{task}/{prefix}loss") + "$" for prefix in _PREFIXES.values()]
    over_time = {
        "loss of each kind of pass": losses,
        "held-out top-1 of each level (%)": [re.escape(f"{task}/held_out/")],
        "weights near a boundary, by layer": [re.escape(f"{task}/near_boundary/")],
        "frozen layers": [re.escape(f"{task}/frozen_layers") + "$"],
    }
    sampled = {
        f"{layer}, {what}": [re.escape(f"{task}/sampled/{layer}/{what[0]}") + r"\d+$"]
        for layer in space.names
        for what in COLUMN_NAMES
    }
    return {"Interference": over_time, "Share of each bit-width sampled": sampled}
