"""H100s to compile for, without having one: XLA compiles for devices that are only described.

Needs the plugin of `jax[cuda13]`, but no GPU and no driver. Without a GPU, XLA does not measure
which algorithm of cuDNN is fastest, so that the workspaces of convolutions are unknown.
"""

from __future__ import annotations

import importlib.util
import pkgutil

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from rfquant_jax.runtime.devices import AXIS

INSTALL = 'needs JAX\'s plugin for NVIDIA GPUs, but no GPU: pip install "jax[cuda13]"'

# NVIDIA's data sheet of the H100 SXM5 80 GB, in the form of xla/service/gpu/gpu_target_config.
H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 minor: 0 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  shared_memory_per_core: 233472
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  l2_cache_size: 52428800
  memory_bandwidth: 3352320000000
  device_memory_size: 84929347584
}
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info { major: 9 minor: 24 }
runtime_version { major: 13 }
"""


def is_installed() -> bool:
    """Whether the plugin for NVIDIA GPUs is installed."""
    plugins = importlib.util.find_spec("jax_plugins")
    folders = plugins.submodule_search_locations if plugins else []
    return any(module.name.startswith("xla_cuda") for module in pkgutil.iter_modules(folders))


def make_mesh(devices: int) -> Mesh:
    """A mesh of H100s of one host, to compile for. JAX itself uses CPUs."""
    jax.config.update("jax_platforms", "cpu")
    topology = topologies.get_topology_desc(
        platform="cuda", target_config=H100, topology=f"1x1x{devices}"
    )
    return Mesh(np.asarray(topology.devices), (AXIS,))
