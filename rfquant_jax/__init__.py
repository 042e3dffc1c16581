"""Mixed-precision quantization without retraining: train once, search for any budget.

Importing this package imports neither JAX nor any other library.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
