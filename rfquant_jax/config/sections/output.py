"""Fields of predictions and exported files."""

from __future__ import annotations

from rfquant_jax.config.declaration import field, section
from rfquant_jax.export.format_names import FORMATS, PLATFORMS
from rfquant_jax.runtime.setting import FRACTION, at_least, some_of

_FORMATS = ("integer", "onnx", "onnx_small", "onnx_fast", "stablehlo", "c", "bundle")

PREDICT = section(
    "predict",
    "classes of images",
    resumable=True,
    images=field("", "folder of images to classify, at any depth"),
    top=field(5, "classes per image, most probable first", at_least(1)),
)

EXPORT = section(
    "export",
    "files of configurations, and their verification",
    resumable=True,
    formats=field(
        _FORMATS, "files to write, integer always; tflite needs ai-edge-litert", some_of(FORMATS)
    ),
    platforms=field(("cpu", "cuda"), "of the StableHLO artifact", some_of(PLATFORMS)),
    batch=field(0, "batch size of the StableHLO artifact; 0: any"),
    images=field(1000, "maximum number of held-out images to verify predictions", at_least(1)),
    code_images=field(100, "of these, images to compare the codes of every layer", at_least(1)),
    # Allowed fractions of differing predictions and of codes per layer; one may always differ.
    max_unequal=field(
        0.001, "fraction of predictions of the integer runtime unlike float64", FRACTION
    ),
    # Other formats have their own float rounding, like the evaluation in float32: 0.001 is the
    # goal, and this bound is only exceeded by broken files.
    max_unequal_float=field(
        0.005, "fraction of predictions of other formats unlike float32", FRACTION
    ),
    max_differing_codes=field(
        1e-5, "fraction of codes per layer in float32, due to rounding; none in float64", FRACTION
    ),
)
