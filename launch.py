"""The command line of a checkout, without installing it: `python launch.py --help`."""

from rfquant_jax.tasks.command_line import run

if __name__ == "__main__":
    run()
