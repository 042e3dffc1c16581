"""Fields of a run: its tasks and devices, its processes, its checkpoints."""

from __future__ import annotations

from rfquant_jax.config.declaration import Field, section
from rfquant_jax.nn.precision import AUTO, TYPES
from rfquant_jax.runtime.setting import NOT_EMPTY, SEED, at_least, one_of

_TASKS = ("pretrain", "train", "search", "evaluate")

GENERAL = section(
    "",
    "general",
    tasks=Field(_TASKS, "these, export and predict, or cost alone", NOT_EMPTY, resumable=True),
    seed=Field(0, "seed of initial weights, data order, sampled configurations", SEED),
    devices=Field(0, "number of devices, over all processes; 0: all", resumable=True),
    deterministic=Field(False, "on GPU: bitwise reproducible, slower; CPU always is"),
    compilation_cache=Field(
        "auto",
        "folder; auto: in the user's cache folder; empty: none",
        resumable=True,
        path=True,
    ),
    precision=Field(AUTO, "compute dtype; auto: bfloat16 on GPU only", one_of((AUTO, *TYPES))),
    checkpoint=Field("", "workdir of another run with trained networks", path=True),
    pretrained=Field(
        "", "file or orbax folder with weights to start from; see pretrain.epochs", path=True
    ),
    configuration=Field(
        "", "for evaluate, export, predict or cost: JSON file or w4a4", resumable=True, path=True
    ),
)

DISTRIBUTED = section(
    "distributed",
    "one run in several processes, on one host or many",
    resumable=True,
    detect=Field(True, "join the cluster that JAX detects (SLURM, Open MPI, ...)"),
    coordinator=Field("", "HOST:PORT of process 0 if no cluster is detected"),
    processes=Field(0, "number of processes, with a coordinator"),
    process=Field(0, "index of this process, with a coordinator"),
    start_timeout_seconds=Field(300, "time for all processes to connect", at_least(1)),
    heartbeat_timeout_seconds=Field(30, "without heartbeat, a process counts as lost", at_least(3)),
)

CHECKPOINTS = section(
    "checkpoints",
    "in addition to checkpoints at evaluations",
    resumable=True,
    keep=Field(2, "newest checkpoints to keep per stage, besides the best", at_least(1)),
    every_steps=Field(0, "updates between checkpoints; 0: off"),
    every_minutes=Field(15.0, "minutes between checkpoints; 0: off"),
)
