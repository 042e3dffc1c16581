"""The task `search`: one configuration for each budget, confirmed on held-out images."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np

from rfquant_jax.checkpoint.checkpoints import TRAIN
from rfquant_jax.config.search_algorithms import ON_PROFILE
from rfquant_jax.runtime import devices
from rfquant_jax.search.budget import Budget
from rfquant_jax.search.greedy import check_reachable, reachable
from rfquant_jax.search.profile_search import ProfileSearch
from rfquant_jax.search.selection import Finalist, Gain, select
from rfquant_jax.search.variables import without_frozen
from rfquant_jax.tasks import networks
from rfquant_jax.tasks.confirm import Confirmation, SearchImages, figures, search_images
from rfquant_jax.tasks.curve import write_curve, write_model
from rfquant_jax.tasks.plots import draw
from rfquant_jax.tasks.profile import propose_from_profile
from rfquant_jax.tasks.propose import Proposal, propose
from rfquant_jax.tasks.run import Run
from rfquant_jax.tasks.workdir import SEARCH_FOLDER, read_json, write_json


def search(run: Run) -> list[dict]:
    """Searches for every budget of the config and writes one JSON file for each.

    Returns:
      the contents of the files, largest budget first.

    Raises:
      CheckpointError: there is no coupled network.
      Interrupted: a signal was received; evaluations are kept.
    """
    run.claim()
    found = results(run, networks.origin(run, TRAIN))
    if found is not None:
        run.log.info(f"search: finished before, for {len(found)} budgets")
        return found
    _search(run)
    devices.barrier("results")
    return [read_json(result_file(run, budget)) for budget in run.budgets]


def results(run: Run, checkpoint: str) -> list[dict] | None:
    """The existing results of all budgets, largest first; None unless all are valid.

    Results become invalid if the network was trained further, or if changed latencies move a
    configuration out of its budget.

    Args:
      checkpoint: origin of the network, see `networks.origin`.

    Raises:
      UserError: a file cannot be read.
    """
    files = [result_file(run, budget) for budget in run.budgets]
    if not all(file.exists() for file in files):
        return None
    found = [read_json(file) for file in files]
    if not all(isinstance(r, dict) and r.get("checkpoint") == checkpoint for r in found):
        return None
    pairs = zip(run.budgets, files, found, strict=True)
    space = run.plan.space
    fit = all(b.fits(space.from_json(r, source=str(file))) for b, file, r in pairs)
    return found if fit else None


def result_file(run: Run, budget: Budget) -> Path:
    """The path of the result file of a budget."""
    name = re.sub(r"[^\w.]+", "_", budget.text.replace("*", "x").replace("%", "pct"))
    return run.workdir / SEARCH_FOLDER / f"{name}.json"


def leave_out_frozen(run: Run, trained: networks.Trained) -> Run:
    """The run without frozen bit-widths in its search space, if the config asks for it."""
    if run.config.search.use_frozen:
        return run
    run.log_once("search: frozen bit-widths are excluded (search.use_frozen)")
    return run.with_search_space(without_frozen(run.search_space, trained.masks))


def _search(run: Run) -> None:
    trained = networks.coupled(run)
    run = leave_out_frozen(run, trained)
    check_reachable(run.search_space, run.budgets)
    for budget in run.budgets:
        ends = reachable(run.search_space, budget)
        run.log.info(f"search: {budget.text}: within reach are {' to '.join(ends)}")
    images, model = search_images(run), None
    if run.config.search.algorithm == ON_PROFILE:
        proposals, model = propose_from_profile(run, trained, images)
    else:
        proposals = propose(run, trained, images.proposing[0])
    confirmed = Confirmation(run, trained, images.confirming)
    found = []
    for index, budget in enumerate(run.budgets):
        proposed = _proposed(proposals.found[index], images)
        uniform = _uniform(run, budget, images, model)
        result = _confirmed_best(run, confirmed, budget, proposed, uniform)
        moves = [move for move in proposals.moves if move.budget == index]
        trace = [m.as_dict() | {"layer": run.plan.space.names[m.layer]} for m in moves]
        found.append(result | proposals.details[index] | {"trace": trace})
    curve = None
    if model is not None:
        write_model(run, model, trained.origin)
        curve = write_curve(run, model, confirmed)
    draw(run, found, curve, confirmed.images)
    # Last, because these files mark the search as finished.
    for budget, result in zip(run.budgets, found, strict=True):
        write_json(result_file(run, budget), result)


def _proposed(proposals: list[Proposal], images: SearchImages) -> list[Finalist]:
    """Proposals as finalists; duplicates are merged, with the union of their unseen images."""
    found: dict[bytes, Finalist] = {}
    for proposal in proposals:
        key, unseen = proposal.configuration.tobytes(), images.unseen[proposal.part]
        if key in found:
            unseen = unseen | found[key].unseen
        name = found[key].name if key in found else proposal.name
        found[key] = Finalist(name, proposal.configuration, unseen)
    return list(found.values())


def _uniform(
    run: Run, budget: Budget, images: SearchImages, model: ProfileSearch | None
) -> list[Finalist]:
    """The largest uniform configuration within a budget, and the best pair wXaY."""
    everything = np.ones(len(images.confirming), bool)
    equal = budget.uniform(run.search_space)
    pair = [] if model is None else best_pair(run, budget, model)
    named = {f"uniform {name}": configuration for name, configuration in [*equal, *pair]}
    return [Finalist(name, configuration, everything) for name, configuration in named.items()]


def best_pair(run: Run, budget: Budget, model: ProfileSearch) -> list[tuple[str, np.ndarray]]:
    """The uniform pair wXaY within a budget with the least divergence, by name; or empty."""
    pairs = {
        f"w{w}a{a}": run.search_space.uniform(w, a)
        for w, a in itertools.product(*run.search_space.space.columns)
    }
    within = {name: c for name, c in pairs.items() if budget.fits(c)}
    if not within:
        return []
    values = model.divergences(list(within.values()))
    # Several pairs may be the same configuration: use the name with the most bits, or that of a
    # level, so that a uniform configuration does not appear under two names.
    name = list(within)[int(np.argmin(np.where(np.isnan(values), np.inf, values)))]
    levels = [f"w{w}a{a}" for w, a in run.search_space.levels]
    same = [x for x in levels if x in within and np.array_equal(within[x], within[name])]
    name = (same or [name])[0]
    return [(name, within[name])]


def _confirmed_best(
    run: Run,
    confirmed: Confirmation,
    budget: Budget,
    proposed: list[Finalist],
    uniform: list[Finalist],
) -> dict:
    """Selects the winner on the confirmation images; returns the content of its file."""
    outcomes = {f.name: confirmed(f.configuration) for f in [*proposed, *uniform]}
    choice = select(proposed, uniform, outcomes)
    winner = choice.winner
    # Without a better pair, the uniform configuration is also the best pair.
    gains = [choice.gains[uniform[place].name] for place in (0, -1)] if uniform else [None, None]
    run.log.info(f"search: {budget.text}: {_verdict(budget, winner, gains[0])}")
    return {
        "layers": run.plan.space.to_json(winner.configuration),
        **run.costs_of(winner.configuration),
        "budget": budget.text,
        **budget.as_dict(),
        "source": winner.name,
        "checkpoint": confirmed.origin,
        "confirmed": {name: figures(found.accuracy) for name, found in outcomes.items()},
        "gain": _shown(gains[0]),
        "gain_pair": _shown(gains[1]),
        "distinguishable": gains[0] is not None and gains[0].distinguishable,
    }


def _shown(found: Gain | None) -> dict | None:
    if found is None:
        return None
    return found.as_dict() | {"over": found.over.removeprefix("uniform ")}


def _verdict(budget: Budget, winner: Finalist, over_uniform: Gain | None) -> str:
    """The log message about a winner."""
    text = f"{winner.name}, {budget.describe(winner.configuration)}"
    if over_uniform is None or over_uniform.over == winner.name:
        return text
    loss, over = over_uniform.loss, over_uniform.over.removeprefix("uniform ")
    half = (loss.high - loss.low) / 2
    text += f", cross-entropy {loss.mean:+.4f} ± {half:.4f} against {over}"
    return text if over_uniform.distinguishable else f"{text}: cannot be told apart from it"
