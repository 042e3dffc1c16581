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
    """What copies of a coupled network share: calibration images and compiled programs.

    It is compared by identity, so that a graph definition that holds it can be hashed.

    Attributes:
      calibration: images, in batches of one size.
    """

    def __init__(self, calibration: Sequence[np.ndarray]):
        self.calibration = calibration
        self._made: dict[str, Any] = {}

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What `make` gives, made when it is first asked for."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]


class CoupledNetwork(nnx.Module):
    """One network for all configurations of a plan; `couple` makes it.

    Calling it computes logits at the configuration that `set_bits` wrote:
    `coupled(images) -> float32[N, classes]`. Images are what `preprocess` takes, here and in every
    function that is given the network; without one they are the network's own input.

    Attributes:
      network: the caller's own network, with quantized layers and switchable BatchNorms in place.
      plan: its layers and configurations.
      preprocess: turns images into the network's input; pure JAX.
      mesh: the devices that training steps, profiles and evaluations use.
      signed: names of the layers whose input codes are signed.
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
        """The configuration it runs at, int32[L, 2]."""
        return np.stack([np.asarray(x.bits[...]) for x in searched_layers(self.network)])

    @property
    def functional(self) -> FunctionalNetwork:
        """Its structure, for compiled functions that take its arrays as arguments."""
        return self.shared.once("functional", lambda: FunctionalNetwork(self.network))


def identity(images: jax.Array) -> jax.Array:
    """The preprocessing of images that are the network's input already."""
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
    """One network for all configurations of a plan, its step sizes calibrated.

    Args:
      network: the trained full-precision network, float32[N, H, W, C] -> logits [N, classes]. It
        stays as it is.
      plan: of this network, see `rfquant_jax.plan`.
      batches: calibration images: one array [N, H, W, C], or several of one shape. They decide
        which layer inputs are signed and where the activation step sizes start. `evaluate`,
        `export` and `recalibrate` use them where they are given no other images.
      preprocess: turns images, for example uint8, into the network's input, on the device; it is
        traced. None: images are the network's input.
      step_sizes: "published" starts training as published: weights from their mean and deviation,
        activations at 2 mean|x| / sqrt(Qp). "least_squares" searches the steps of least squared
        error, for a network that is used without training.
      devices: number of devices for training, profiles and evaluations; 0: all. A batch must be
        divisible by it.

    Returns:
      the coupled network, in evaluation mode and at its largest bit-widths.

    Raises:
      ArgumentError: an argument breaks its rule.
      UserError: the network is not the plan's, or a pattern matches no layer.

    Source: LSQ (Esser et al., ICLR 2020) and LSQ+ (Bhalgat et al., 2020) for the step sizes;
    RFQuant (Tang et al., CVPR 2024), section 4, for the coupling.

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
    """Lets a coupled network run at a configuration.

    Bit-widths are data: a compiled function that takes the network does not recompile.

    Args:
      coupled: changed in place.
      configuration: "w4a4"; {layer name: (weight bits, activation bits)} for every searched layer;
        int32[L, 2] in forward order; or a result of `search`.

    Raises:
      UserError: it is not a configuration of this network; names the layer.

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
    """The network itself.

    Raises:
      TypeError: it is not a coupled one.
    """
    if not isinstance(network, CoupledNetwork):
        kind = type(network).__name__
        raise TypeError(f"`coupled` must be a CoupledNetwork, which `couple` makes, not {kind}")
    return network
