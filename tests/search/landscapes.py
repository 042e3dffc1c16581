"""Made-up networks for searches: spaces, costs, and errors that are known everywhere."""

import itertools

import numpy as np

from rfquant_jax.quant.cost import CostModel
from rfquant_jax.quant.space import Space
from rfquant_jax.search.budget import Budget, Limit
from rfquant_jax.search.problem import Problem
from rfquant_jax.search.variables import make_search_space

B = (6, 5, 4, 3, 2)


def space_of(layers):
    return Space(tuple(f"l{i}" for i in range(layers)), B, np.ones((layers, 5), bool))


def bitops_budgets(layers, *limits):
    """Layers of 1e9 multiply-accumulates each, limits in GBitOPs."""
    costs = CostModel(np.full(layers, 10**9), np.full(layers, 100), 0, 0)
    return tuple(Budget(f"{x}G", (Limit(costs.kinds()["G"], x),)) for x in limits)


def harm(weights, configurations):
    """Each bit less than 6 hurts by a layer's weight; the same on every batch."""
    lost = (6 - np.asarray(configurations, float)) ** 2
    return (lost * np.asarray(weights, float)[:, None]).sum(axis=(1, 2))


def own_activations(layers):
    """Activations take 5 or 3 bits, and 3 alone in the first layer; weights 6 to 2."""
    mask = np.tile(np.isin(B, (5, 3)), (layers, 1))
    mask[0] = np.isin(B, 3)
    names = tuple(f"l{i}" for i in range(layers))
    return Space(names, B, np.ones((layers, 5), bool), mask, (B, (5, 3)))


def problem(weights, *limits, seed=0, evaluate=None, space=None, **restrictions):
    weights = np.asarray(weights, float)
    evaluate = evaluate or (lambda configurations, iteration: harm(weights, configurations))
    search_space = make_search_space(space or space_of(len(weights)), **restrictions)
    return Problem(search_space, bitops_budgets(len(weights), *limits), evaluate, seed)


def best_of_all(weights, budget):
    """The least harm within a budget, by trying everything (two layers at most)."""
    everything = itertools.product(B, repeat=2 * len(weights))
    configurations = [np.asarray(c, np.int32).reshape(-1, 2) for c in everything]
    inside = np.stack([c for c in configurations if budget.fits(c)])
    return harm(weights, inside).min()


def everything(search_space):
    """All configurations of a search, int32[N, L, 2]."""
    choices = itertools.product(*(variable.allowed for variable in search_space.variables))
    bits = np.asarray(list(choices), np.int32)
    found = np.zeros((len(bits), len(search_space.space), 2), np.int32)
    for variable, taken in zip(search_space.variables, bits.T, strict=True):
        for place in variable.places:
            found[:, *place] = taken
    return found


def additive_terms(seed, layers):
    """Logarithms of harms, float[L, 2, |B|]: fewer bits hurt more, by another measure each time."""
    steps = np.random.default_rng(seed).gamma(0.7, 0.8, (layers, 2, len(B) - 1)) + 0.02
    return np.concatenate([np.zeros((layers, 2, 1)), np.cumsum(steps, axis=2)], axis=2)


def divergence(terms, configurations):
    """exp(sum of the terms - 7); 0 for the largest configuration, as of a network."""
    configurations = np.asarray(configurations)
    places = B[0] - configurations
    logs = np.take_along_axis(terms[None], places[..., None], axis=3).sum(axis=(1, 2, 3))
    return np.where(np.all(places == 0, axis=(1, 2)), 0.0, np.exp(logs - 7))
