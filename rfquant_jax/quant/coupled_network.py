"""The coupled network as an NNX module: one network for all configurations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from rfquant_jax.data.arrays import Images, image_batches
from rfquant_jax.errors import ArgumentError
from rfquant_jax.nn.functional import FunctionalNetwork
from rfquant_jax.quant.calibrate import Preprocess
from rfquant_jax.quant.configuration import Configuration, as_configuration
from rfquant_jax.quant.layers import assign, searched_layers
from rfquant_jax.quant.plan import QuantizationPlan
from rfquant_jax.runtime.devices import make_mesh

T = TypeVar("T")


class Shared:
    """State that all copies of a coupled network share: calibration images, compiled programs.

    Compared by identity, so that the graph definition of the network stays hashable.

    Attributes:
      calibration: images in batches of one size.
    """

    def __init__(self, calibration: Sequence[np.ndarray]):
        self.calibration = calibration
        self._made: dict[str, Any] = {}

    def once(self, name: str, make: Callable[[], T]) -> T:
        """The value stored under `name`; the first call creates it with `make`."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]


class CoupledNetwork(nnx.Module):
    """One network with shared weights for all configurations of a plan; created by `couple`.

    `coupled(images) -> float32[N, classes]` computes the logits at the configuration that
    `set_bits` has set. `images` are the input of `preprocess`, here and in every function that
    takes the network. Without `preprocess`, they are the input of the network itself.

    Attributes:
      network: a copy of the given network, with quantized layers and switchable BatchNorms in place
        of its own.
      plan: its layers and configurations.
      preprocess: maps images to the network's input; traceable by JAX.
      mesh: the devices for training steps, profiles and evaluations.
      signed: names of the layers with signed input codes.
    """

    def __init__(
        self,
        network: nnx.Module,
        plan: QuantizationPlan,
        *,
        preprocess: Preprocess,
        mesh: Mesh,
        signed: Sequence[str] = (),
        calibration: Sequence[np.ndarray] = (),
    ):
        self.network = network
        self.plan, self.preprocess, self.mesh = plan, preprocess, mesh
        self.signed = tuple(signed)
        self.shared = Shared(calibration)

    def __call__(self, images: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
        return self.network(self.preprocess(images), *args, **kwargs)

    @property
    def configuration(self) -> np.ndarray:
        """The current configuration, int32[L, 2]: weight and activation bit-width by layer."""
        return np.stack([np.asarray(x.bits[...]) for x in searched_layers(self.network)])

    @property
    def functional(self) -> FunctionalNetwork:
        """The network as a pure function of its arrays, for compiled functions."""
        return self.shared.once("functional", lambda: FunctionalNetwork(self.network))


def identity(images: jax.Array) -> jax.Array:
    """The preprocessing for images that are already the network's input."""
    return images


def couple(
    network: nnx.Module,
    plan: QuantizationPlan,
    batches: Images,
    *,
    preprocess: Preprocess | None = None,
    step_sizes: Literal["published", "least_squares"] = "published",
    devices: int = 0,
) -> CoupledNetwork:
    """Converts a network to a coupled network and calibrates its step sizes.

    Args:
      network: the trained full-precision network, float32[N, H, W, C] -> logits [N, classes]; it is
        not modified.
      plan: the plan of this network, from `rfquant_jax.plan`.
      batches: calibration images: one array [N, H, W, C], or several of one shape. They determine
        which layer inputs are signed and the initial activation step sizes. `evaluate`, `export`
        and `recalibrate` use them by default.
      preprocess: maps images, for example uint8, to the network's input; traced and run on the
        device. None: images are the network's input.
      step_sizes: initial step sizes. "published": for training; weights from their mean and
        standard deviation, activations 2 mean|x| / sqrt(Qp). "least_squares": those with the
        smallest squared quantization error, for a network that is used without training.
      devices: number of devices for training, profiles and evaluations; 0: all. Batch sizes must
        be divisible by it.

    Returns:
      the coupled network, in evaluation mode and at its largest bit-widths.

    Raises:
      ArgumentError: an argument breaks its rule.
      UserError: the plan is of another network, or a pattern matches no layer.

    Source: RFQuant (Tang et al., CVPR 2024, arXiv 2401.01543) for the coupling; LSQ (Esser et al.,
    ICLR 2020) and LSQ+ (Bhalgat et al., 2020) for the step sizes.

    Example:
      >>> coupled = rfq.couple(net, plan, images[:32], devices=1)
      >>> logits = coupled(images[:4])
      >>> logits.shape
      (4, 3)
    """
    if step_sizes not in ("published", "least_squares"):
        rule = 'must be "published" or "least_squares"'
        raise ArgumentError("step_sizes", step_sizes, rule)
    mesh, preprocess = make_mesh(devices), preprocess or identity
    images = image_batches(batches)
    if step_sizes == "published":
        check_divisible("batches", len(images[0]), mesh)
        functional, params, signed = plan.start(network, images, preprocess, mesh)
    else:
        functional, params, signed = plan.start_untrained(network, images, preprocess, mesh)
    merged = functional.merge({n: jnp.asarray(v) for n, v in params.items()}, functional.stats)
    merged.eval()
    return CoupledNetwork(
        merged, plan, preprocess=preprocess, mesh=mesh, signed=signed, calibration=images
    )


def set_bits(coupled: CoupledNetwork, configuration: Configuration) -> None:
    """Sets the configuration at which a coupled network runs.

    Bit-widths are arrays, so a compiled function that takes the network does not recompile.

    Args:
      coupled: modified in place.
      configuration: "w4a4"; {layer name: (weight bits, activation bits)} for every searched layer;
        int32[L, 2] in forward order; or a result of `search`.

    Raises:
      UserError: not a configuration of this network; the message names the layer.

    Example:
      >>> rfq.set_bits(coupled, "w3a3")
      >>> coupled.configuration.tolist()
      [[3, 3], [3, 3]]
      >>> rfq.set_bits(coupled, {"conv": (4, 2), "last": (6, 6)})
      >>> predicted = coupled(images[:4]).argmax(-1)
    """
    rows = as_configuration(coupled.plan.space, configuration)
    assign(coupled.network, jnp.asarray(rows))


def check_divisible(argument: str, images: int, mesh: Mesh, parts: int = 1) -> None:
    """Raises an ArgumentError unless a batch can be split evenly over the devices."""
    if images % (mesh.size * parts):
        micro = f" in {parts} micro-batches each" if parts > 1 else ""
        rule = f"cannot be divided evenly over {mesh.size} devices{micro}"
        raise ArgumentError(argument, images, rule)


def check_coupled(network: object) -> CoupledNetwork:
    """Returns the network if it is a coupled one.

    Raises:
      TypeError: it is not.
    """
    if not isinstance(network, CoupledNetwork):
        kind = type(network).__name__
        raise TypeError(f"`coupled` must be a CoupledNetwork, as `couple` returns, not {kind}")
    return network
