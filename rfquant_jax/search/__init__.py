from rfquant_jax.runtime.callable_package import make_callable

make_callable(__name__)
