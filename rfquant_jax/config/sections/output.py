"""Fields of predictions and exported files."""

from __future__ import annotations

from rfquant_jax.config.declaration import Field, section
from rfquant_jax.export.format_names import FORMATS, PLATFORMS
from rfquant_jax.runtime.setting import FRACTION, at_least, some_of

_FORMATS = ("integer", "onnx", "onnx_small", "onnx_fast", "stablehlo", "c", "bundle")

PREDICT = section(
    "predict",
    "classes of images",
    resumable=True,
    images=Field("", "folder of images to classify, at any depth", path=True),
    top=Field(5, "classes per image, most probable first", at_least(1)),
)

EXPORT = section(
    "export",
    "files of configurations, and their verification",
    resumable=True,
    formats=Field(
        _FORMATS, "files to write, integer always; tflite needs ai-edge-litert", some_of(FORMATS)
    ),
    platforms=Field(("cpu", "cuda"), "of the StableHLO artifact", some_of(PLATFORMS)),
    batch=Field(0, "batch size of the StableHLO artifact; 0: any"),
    images=Field(1000, "maximum number of held-out images to verify predictions", at_least(1)),
    code_images=Field(100, "of these, images to compare the codes of every layer", at_least(1)),
    # Allowed fractions of differing predictions and codes; one may always differ.
    max_unequal=Field(
        0.001, "share of the integer runtime's predictions that may differ from float64", FRACTION
    ),
    # Other formats have their own float rounding, like the evaluation in float32: 0.001 is the
    # goal, and this bound is only exceeded by broken files.
    max_unequal_float=Field(
        0.005, "share of other formats' predictions that may differ from float32", FRACTION
    ),
    max_differing_codes=Field(
        1e-5,
        "share of codes that may differ: in float32, of each layer's (none in float64); "
        "in fast ONNX, LiteRT and QONNX files, of all layers' together",
        FRACTION,
    ),
)
