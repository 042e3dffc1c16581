"""The export formats: names, as in `export.formats` of a config, and endings of their files.

`files.py` has the writer of each format, `verify/runners.py` what runs it for verification.
"""

from __future__ import annotations

INTEGER = "integer"
ONNX = "onnx"
ONNX_SMALL = "onnx_small"
ONNX_FAST = "onnx_fast"
STABLEHLO = "stablehlo"
C = "c"
TFLITE = "tflite"
QONNX = "qonnx"
BUNDLE = "bundle"  # all configurations in one file of the integer format

SUFFIXES = {
    INTEGER: ".safetensors",
    ONNX: ".onnx",
    ONNX_SMALL: ".small.onnx",
    ONNX_FAST: ".fast.onnx",
    STABLEHLO: ".stablehlo",
    C: ".c",
    TFLITE: ".tflite",
    QONNX: ".qonnx.onnx",
}
FORMATS = (*SUFFIXES, BUNDLE)
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")  # of a StableHLO artifact
NEED_ONNX = (ONNX, ONNX_SMALL, ONNX_FAST, QONNX)  # written with the package onnx
BUNDLE_FILE = "bundle.safetensors"
