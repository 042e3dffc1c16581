"""A process that has imported everything, and does command lines in forks of itself, one by one.

Importing takes most of the time of a command line that is refused, and seconds of every other. JAX
starts its threads with its devices, so every fork starts its own.
"""

import gc
import json
import os
import signal
import sys
import traceback

import cv2  # noqa: F401
import sklearn.datasets  # noqa: F401

from rfquant_jax.report import page, plots, tensorboard  # noqa: F401
from rfquant_jax.tasks import command_line, preconditions  # noqa: F401

# `onnxruntime` starts a thread when it is imported: forks import it themselves.


def become(arguments, environment, output, errors, timeout):
    """Turns this fork into the process of a command line."""
    for path, number in ((os.devnull, 0), (output, 1), (errors, 2)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = arguments
    signal.alarm(timeout)
    code = 1
    try:
        command_line.run()
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # taking everything down again takes as long as importing it


def serve():
    """Requests are lines of JSON on standard input, answers exit codes on standard output."""
    gc.freeze()
    for line in sys.stdin:
        child = os.fork()
        if not child:
            become(**json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
