"""Fields of the evaluation and of the search."""

from __future__ import annotations

from rfquant_jax.config.declaration import Field, of, section
from rfquant_jax.config.search_algorithms import ALGORITHMS, NOTES, ON_PROFILE
from rfquant_jax.runtime.setting import INSIDE, NOT_EMPTY, at_least, one_of
from rfquant_jax.search.greedy import NORMALIZATIONS
from rfquant_jax.search.metrics import METRICS
from rfquant_jax.search.sampling import EvolutionSettings

EVALUATE = section(
    "evaluate",
    "accuracy, after recalibration of BatchNorm",
    batch_size=Field(
        128,
        "images per batch, over all devices; each measures BatchNorm on whole batches",
        at_least(1),
    ),
    recalibration_images=Field(7000, "maximum number of held-out images", at_least(1)),
    augment=Field(False, "recalibrate on augmented images"),
)

SEARCH = section(
    "search",
    "configurations for budgets",
    budgets=Field(
        "33.9G",
        "list of 33.9G (BitOPs), 2.3MB, 60KB, 5ms, 30G+2MB, 1.05*w4a4 (BitOPs; 1.05*w4a4:MB), "
        "50% (of the BitOPs of 8 bits everywhere; 50%:MB of their size)",
        NOT_EMPTY,
    ),
    algorithm=Field(
        ON_PROFILE,
        "how configurations are found",
        one_of((ON_PROFILE, *ALGORITHMS)),
        more=NOTES,
    ),
    profile=Field(400, "trust_region: configurations measured once for all budgets", at_least(10)),
    evaluations=Field(60, "trust_region and random: evaluations per budget", at_least(10)),
    images=Field(2000, "trust_region: maximum number of images of a profile", at_least(1)),
    views=Field(5, "trust_region: maximum number of augmented views of few images", at_least(1)),
    batch_size=Field(256, "held-out images per batch of an evaluation", at_least(1)),
    starts=Field(
        16,
        "cuts of evaluations (not trust_region); fewer: less memory, slower",
        at_least(1),
        resumable=True,
    ),
    confirm_fraction=Field(
        0.5,
        "fraction of held-out images reserved for confirmation",
        INSIDE,
        more="trust_region with fewer than 2,000: each half proposes, the other half confirms",
    ),
    start_bits=Field(0, "initial uniform bit-width; 0: 5, else the middle candidate"),
    min_bits=Field(0, "minimum bit-width; 0: the smallest candidate"),
    max_bits=Field(0, "maximum bit-width; 0: the largest candidate"),
    use_frozen=Field(True, "include bit-widths frozen in the checkpoint"),
    pins=Field((), "(layer pattern, (weight bits, activation bits)): fixed bits", entries=tuple),
    groups=Field((), "(weights, activations or both, layer patterns): equal bits", entries=tuple),
    same_bits=Field((), "layer patterns: equal bits for weights and activations", entries=str),
    latency_table=Field("", "JSON or CSV of layer, w_bits, a_bits, milliseconds", path=True),
    alpha=Field(1.5, "weight of the error relative to the cost"),
    metric=Field(
        "divergence", 'what candidates are compared by; "paper" uses error', one_of((*METRICS,))
    ),
    normalize=Field("minmax", "error and cost over the candidates", one_of(NORMALIZATIONS)),
    joint=Field(False, "greedy: weights and activations move in one phase"),
    max_iterations_per_layer=Field(20, "then only downward moves; 0: unlimited"),
    frontier_points=Field(12, "number of configurations of the curve to confirm, of 30"),
    keep=of(EvolutionSettings, "parents", "random and evolution: finalists to confirm; parents"),
    min_load=of(EvolutionSettings, "least", "random and evolution: fraction of the budget to use"),
    population=of(EvolutionSettings, "population", "evolution: configurations per generation"),
    generations=of(EvolutionSettings, "generations", "evolution: number of generations"),
    mutation_probability=of(
        EvolutionSettings, "probability", "evolution: probability of changing a bit-width"
    ),
)
