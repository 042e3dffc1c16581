"""What a checkpoint of a training holds: arrays, and the position in the schedule as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jax.sharding import Mesh

from rfquant_jax.checkpoint.checkpoints import Checkpoints
from rfquant_jax.runtime import devices
from rfquant_jax.train.state import TrainState


@dataclass
class Position:
    """Progress of training: the part of a checkpoint that is not arrays.

    Attributes:
      step: number of updates so far.
      masks: the bit-widths that may be sampled, of weights and activations, bool[2, L, |B|].
      history: records of the scheduler's firings.
    """

    step: int
    masks: np.ndarray
    history: list[dict] = field(default_factory=list)


def save(
    checkpoints: Checkpoints,
    state: TrainState,
    position: Position,
    about: dict,
    score: float | None,
) -> None:
    """Starts writing a checkpoint in the background.

    Args:
      about: further JSON content.
      score: ranks the checkpoint; None: it was not evaluated.
    """
    about = about | {
        "masks": position.masks.astype(int).tolist(),
        "history": list(position.history),  # written in the background while training continues
    }
    ema = {"params": state.ema_params, "stats": state.ema_stats}
    checkpoints.save(position.step, ema=ema, state=_kept(state), about=about, score=score)


def restore(
    checkpoints: Checkpoints, step: int, fresh: TrainState, masks: np.ndarray, mesh: Mesh
) -> tuple[TrainState, Position, dict]:
    """The state and position of a checkpoint, and its JSON content.

    Args:
      step: number of the checkpoint.
      fresh: a state with the shapes and dtypes of the saved one.
      masks: masks with the saved shape.
    """
    about = checkpoints.about(step)
    ema = checkpoints.restore_ema(step, {"params": fresh.ema_params, "stats": fresh.ema_stats})
    kept = checkpoints.restore_state(step, _kept(fresh))
    state = TrainState(
        params=devices.replicate(kept["params"], mesh),
        stats=devices.per_device(kept["stats"], mesh),
        optimizer=devices.replicate(kept["optimizer"], mesh),
        ema_params=devices.replicate(ema["params"], mesh),
        ema_stats=devices.replicate(ema["stats"], mesh),
    )
    saved = np.asarray(about["masks"], bool).reshape(masks.shape)
    return state, Position(step, saved, about["history"]), about


def _kept(state: TrainState) -> dict:
    """The state as saved; one copy of the statistics, which are equal on all devices."""
    stats = devices.first_copy(state.stats)
    return {"params": state.params, "stats": stats, "optimizer": state.optimizer}
