"""ResNet-20 on CIFAR-10 with residual additions of 8-bit codes, for integer kernels.

Paper: RFQuant (Tang et al., CVPR 2024, arXiv 2401.01543), which keeps residual additions in float.
Differs from configs/cifar10_resnet20.py in this alone, which says what is needed. All activations
are then codes of one byte, see docs/deployment.md.
Expected: not run yet. Time: as configs/cifar10_resnet20.py.
Command: python launch.py --config=configs/cifar10_resnet20_residual8.py --config.data.path=DIR \
    --config.pretrained=FILE
"""

from ml_collections import ConfigDict

from configs import cifar10_resnet20


def get_config() -> ConfigDict:
    config = cifar10_resnet20.get_config()
    config.quant.residual_bits = 8
    return config
