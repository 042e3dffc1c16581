"""The task `cost`: what configurations cost, without data or a trained network."""

from __future__ import annotations

from rfquant_jax.quant.remarks import normalization_remarks
from rfquant_jax.report.tables import COSTS, table
from rfquant_jax.runtime import devices
from rfquant_jax.tasks.activations import activation_bytes, activation_line
from rfquant_jax.tasks.run import Run


def cost(run: Run) -> None:
    """Prints what the config's configuration costs, or the uniform ones if it names none."""
    space, configuration = run.plan.space, run.configuration
    if configuration is None:
        rows = run.costs.table(space)
    else:
        rows = [run.costs_of(configuration) | {"configuration": run.config.configuration}]
    columns = {"configuration": "configuration"} | COSTS
    if devices.is_first_process():
        print(table(rows, columns))
        found = activation_bytes(run.abstract_network, run.plan)
        print(activation_line(*found))
        for line in normalization_remarks(run.abstract_network, run.plan.layers):
            print(line)
