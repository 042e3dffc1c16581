"""Small networks of the architectures that people bring, in plain Flax NNX."""
