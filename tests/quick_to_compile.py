"""Compiler options with which the tests take half the time: most of it goes into compiling.

XLA partitions, rewrites and fuses programs as it does for users. Only the machine code is made in
another way: by XLA's older emitters, and by LLVM without its expensive passes. In the processes of
pytest LLVM optimises nothing; those that tests start train for longer, and steps take ten times as
long without any optimisation.
"""

import mmap
import os
from functools import cache
from importlib.util import find_spec
from pathlib import Path

IF_KNOWN = {  # a flag that XLA does not know would abort the process
    "xla_cpu_use_fusion_emitters": "false",
    # Devices wait for each other while other work takes the cores; after 40 s XLA would abort.
    "xla_cpu_collective_call_terminate_timeout_seconds": "600",
}
NOTHING_OPTIMISED = "JAX_DISABLE_MOST_OPTIMIZATIONS"


def xla_flags(devices: int) -> str:
    """The value of XLA_FLAGS for a process of so many fake devices."""
    flags = [f"--xla_force_host_platform_device_count={devices}"]
    flags += ["--xla_backend_optimization_level=1", "--xla_llvm_disable_expensive_passes=true"]
    return " ".join(
        flags + [f"--{name}={value}" for name, value in IF_KNOWN.items() if _knows(name)]
    )


def environment(devices: int) -> dict[str, str]:
    """The environment of a process that a test starts."""
    return os.environ | {"XLA_FLAGS": xla_flags(devices), NOTHING_OPTIMISED: "0"}


@cache
def _knows(flag: str) -> bool:
    library = Path(find_spec("jaxlib").origin).with_name("libjax_common.so")
    if not library.exists():
        return False
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as code:
        return code.find(flag.encode()) >= 0
