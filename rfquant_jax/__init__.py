"""Mixed-precision quantization without retraining, in JAX and Flax NNX.

    import rfquant_jax as rfq

    plan = rfq.plan(net, image_shape)                # layers and costs; nothing is computed
    coupled = rfq.couple(net, plan, images)          # one network for all configurations
    rfq.Trainer(coupled).run((images, labels))       # or your own loop over `CoupledStep`
    profile = rfq.profile(coupled, images)           # measures configurations and fits a model
    found = rfq.search(profile, ["0.8*w4a4", "60KB"])
    rfq.evaluate(coupled, found[0], (images, labels))
    rfq.export(coupled, found[0], "model.onnx")

Importing the package is cheap: each name imports its module, and with it JAX, on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from rfquant_jax import models
    from rfquant_jax.data.arrays import Images, LabelledImages
    from rfquant_jax.errors import ArgumentError, UserError
    from rfquant_jax.evaluate.evaluate import evaluate
    from rfquant_jax.evaluate.evaluator import Accuracy
    from rfquant_jax.evaluate.recalibrate import recalibrate
    from rfquant_jax.export.export import export
    from rfquant_jax.export.exported_file import ExportedFile
    from rfquant_jax.export.remarks import remarks
    from rfquant_jax.nn.features import Feature
    from rfquant_jax.nn.residual import ResidualAdd
    from rfquant_jax.quant.configuration import Configuration
    from rfquant_jax.quant.coupled_network import CoupledNetwork, couple, set_bits
    from rfquant_jax.quant.plan import QuantizationPlan as QuantizationPlan
    from rfquant_jax.quant.plan import plan
    from rfquant_jax.quant.quant_config import QuantConfig
    from rfquant_jax.search.network_profile import NetworkProfile
    from rfquant_jax.search.profile_network import profile
    from rfquant_jax.search.search import Found, search
    from rfquant_jax.tasks.load import load
    from rfquant_jax.train.coupled_step import CoupledStep, StepMetrics
    from rfquant_jax.train.scheduler import SchedulerConfig
    from rfquant_jax.train.state import TrainState
    from rfquant_jax.train.step_config import StepConfig
    from rfquant_jax.train.train_config import TrainConfig
    from rfquant_jax.train.trainer import Trainer

# Where each public name is defined. The packages search, evaluate and export are callable.
_ORIGINS = {
    "Accuracy": "evaluate.evaluator:Accuracy",
    "ArgumentError": "errors:ArgumentError",
    "Configuration": "quant.configuration:Configuration",
    "CoupledNetwork": "quant.coupled_network:CoupledNetwork",
    "CoupledStep": "train.coupled_step:CoupledStep",
    "ExportedFile": "export.exported_file:ExportedFile",
    "Found": "search.search:Found",
    "Images": "data.arrays:Images",
    "LabelledImages": "data.arrays:LabelledImages",
    "NetworkProfile": "search.network_profile:NetworkProfile",
    "QuantConfig": "quant.quant_config:QuantConfig",
    "QuantizationPlan": "quant.plan:QuantizationPlan",
    "SchedulerConfig": "train.scheduler:SchedulerConfig",
    "StepConfig": "train.step_config:StepConfig",
    "StepMetrics": "train.coupled_step:StepMetrics",
    "Feature": "nn.features:Feature",
    "ResidualAdd": "nn.residual:ResidualAdd",
    "TrainConfig": "train.train_config:TrainConfig",
    "TrainState": "train.state:TrainState",
    "Trainer": "train.trainer:Trainer",
    "UserError": "errors:UserError",
    "couple": "quant.coupled_network:couple",
    "evaluate": "evaluate",
    "export": "export",
    "load": "tasks.load:load",
    "models": "models",
    "plan": "quant.plan:plan",
    "profile": "search.profile_network:profile",
    "recalibrate": "evaluate.recalibrate:recalibrate",
    "remarks": "export.remarks:remarks",
    "search": "search",
    "set_bits": "quant.coupled_network:set_bits",
}

__all__ = [
    "Accuracy",
    "ArgumentError",
    "Configuration",
    "CoupledNetwork",
    "CoupledStep",
    "ExportedFile",
    "Feature",
    "Found",
    "Images",
    "LabelledImages",
    "NetworkProfile",
    "QuantConfig",
    "QuantizationPlan",
    "ResidualAdd",
    "SchedulerConfig",
    "StepConfig",
    "StepMetrics",
    "TrainConfig",
    "TrainState",
    "Trainer",
    "UserError",
    "__version__",
    "couple",
    "evaluate",
    "export",
    "load",
    "models",
    "plan",
    "profile",
    "recalibrate",
    "remarks",
    "search",
    "set_bits",
]


if not TYPE_CHECKING:  # to type checkers a module with `__getattr__` has every name

    def __getattr__(name: str) -> Any:
        if name not in _ORIGINS:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module, _, attribute = _ORIGINS[name].partition(":")
        found = importlib.import_module(f"{__name__}.{module}")
        if attribute:
            found = getattr(found, attribute)
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
