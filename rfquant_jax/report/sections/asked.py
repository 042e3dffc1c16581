"""Section "request": command, recipe, network, data, budgets, and every field of the config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rfquant_jax.report.markup import Markup, details, join, note, tag
from rfquant_jax.report.numbers import MISSING
from rfquant_jax.report.run_files import RunFiles
from rfquant_jax.report.usage import command_line
from rfquant_jax.runtime.arguments import flag_value

COMMAND_FILE = "command.json"


def asked(run: RunFiles) -> Markup:
    """The section's content.

    Raises:
      Unavailable: there is no readable config.
    """
    config = run.json("config.json")
    command = run.optional(COMMAND_FILE)
    facts = tag("dl", *_facts(_pairs(run, config, command)), class_="facts")
    return join([_command(command), facts, _fields(config)])


def _command(command: Mapping) -> Markup:
    arguments = command.get("arguments")
    if not arguments:
        return note("The command of this run was not recorded.")
    return tag("pre", tag("code", command_line(arguments)))


def _pairs(run: RunFiles, config: Mapping, command: Mapping) -> Iterator[tuple[str, object]]:
    def of(name: str) -> object:
        return field(config, name)

    yield "Workdir", tag("code", run.workdir)
    yield "Recipe", _recipe(command.get("arguments") or ())
    yield "Tasks", listed(of("tasks"))
    options = of("model.options")
    given = ", ".join(f"{k} = {v}" for k, v in options.items()) if options else ""
    yield "Network", f"{of('model.name')} ({given})" if given else of("model.name")
    yield "Data", of("data.name")
    yield "Image size", f"{of('data.image_size')} pixels" if of("data.image_size") else "unchanged"
    yield "Held out for the search", _share(of("data.search_fraction"))
    if of("data.val_fraction") not in (0.0, MISSING):
        yield "Held out for the test", _share(of("data.val_fraction"))
    yield "Bit-width candidates", listed(of("quant.candidates"))
    if of("quant.activation_candidates") not in ([], MISSING):
        yield "Candidates of activations", listed(of("quant.activation_candidates"))
    yield "Depthwise layers", f"at least {of('quant.depthwise_min_bits')} bits"
    yield "First and last layer", f"{of('quant.fixed_bits')} bits, outside the search"
    if of("quant.residual_bits") == 8:
        yield "Residual additions", "8 bits, outside the search"
    yield "Full-precision training", _training(config, "pretrain", "none, weights as given")
    yield "Coupled training", _training(config, "train", "none, post-training quantization")
    yield "Budgets", join((tag("code", b) for b in run.budgets), ", ") or MISSING
    yield "Search algorithm", f"{of('search.algorithm')}, compared by {of('search.metric')}"
    yield "Precision", of("precision")
    yield "Seed", of("seed")


def _recipe(arguments: Sequence[str]) -> object:
    """The file given with `--config`; without one, a run is the quickstart."""
    if not arguments:
        return "not recorded"
    named = flag_value(arguments, "config")
    return "the quickstart" if named is None else tag("code", named)


def _training(config: Mapping, section: str, without: str) -> str:
    epochs = field(config, f"{section}.epochs")
    if epochs == 0:
        return without
    return f"{epochs} epochs, {field(config, f'{section}.batch_size')} images a step"


def _share(value: object) -> str:
    return f"{100 * value:.3g} % of the training images" if isinstance(value, float) else MISSING


def _facts(pairs: Iterator[tuple[str, object]]) -> Iterator[Markup]:
    for name, value in pairs:
        yield tag("div", tag("dt", name), tag("dd", value))


def _fields(config: Mapping) -> Markup:
    lines = "\n".join(f"{name} = {value!r}" for name, value in _flat(config))
    return details("All fields of the config", tag("pre", tag("code", lines)))


def _flat(config: Mapping, prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in config.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def field(config: Mapping, name: str) -> object:
    """The value of a field by its dotted name; a dash if there is no such field."""
    value: object = config
    for part in name.split("."):
        value = value.get(part, MISSING) if isinstance(value, Mapping) else MISSING
    return value


def listed(values: object) -> str:
    """The items of a list, separated by commas; other values as text."""
    return ", ".join(map(str, values)) if isinstance(values, list) else str(values)
