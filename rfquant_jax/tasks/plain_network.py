"""The plain network of a run: built, with abstract arrays, with the weights of a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flax import nnx
from ml_collections import ConfigDict

from rfquant_jax import models
from rfquant_jax.errors import RunFailure, UserError
from rfquant_jax.models.pretrained.files import read_weights
from rfquant_jax.models.pretrained.load import load_weights
from rfquant_jax.nn import precision
from rfquant_jax.nn.mode import following_mode
from rfquant_jax.quant.forward import summary

Build = Callable[[], nnx.Module]


def network_builder(config: ConfigDict, classes: int, channels: int) -> Build:
    """A function that builds the randomly initialised network in the config's compute dtype.

    Args:
      classes: number of logits.
      channels: channels of the images.
    """
    build = models.builder(
        config.model.name,
        num_classes=classes,
        channels=channels,
        seed=config.seed,
        options=config.model.options,
    )
    dtype = precision.compute_type(config.precision)
    return lambda: following_mode(precision.compute_in(build(), dtype))


def abstract_network(config: ConfigDict, build: Build) -> nnx.Module:
    """The network with abstract arrays.

    Raises:
      RunFailure: its constructor fails; names the line. The cause is attached.
    """
    try:
        return models.abstract(build)
    except UserError:
        raise
    except Exception as error:  # the network may be user code
        what = f"config.model.name={config.model.name}: its constructor fails"
        hint = "; hold modules in an nnx.List or nnx.Dict" if "nnx.List" in str(error) else ""
        raise RunFailure(f"{what}: {summary(error)}{hint}") from error


def with_pretrained_weights(
    config: ConfigDict, network: nnx.Module, log: Callable[[str], None]
) -> tuple[nnx.Module, list[str]]:
    """A copy of a network with the weights of `config.pretrained`, if it names a file.

    Returns:
      the network; the names of tensors that were not loaded because the number of classes differs.

    Raises:
      UserError: the file cannot be read or does not fit.
    """
    network = nnx.clone(network)
    if not config.pretrained:
        return network, []
    tensors = read_weights(Path(config.pretrained), log)
    return network, load_weights(network, config.model.name, tensors)
