"""80 epochs of ResNet18 on ImageNet: neither scheduler nor information distortion mitigation.

Paper: RFQuant (Tang et al., CVPR 2024, arXiv 2401.01543), section 4.
Expected: the baseline of the three others. Not run here (on small data: docs/results.md).
Hardware: 4 GPUs, 128 images each. Time: not measured.
Command: python launch.py --config=configs/ablation/neither.py --config.data.path=IMAGENET \
    --config.pretrained=resnet18.safetensors
"""

from ml_collections import ConfigDict

from configs.ablation import both


def get_config() -> ConfigDict:
    config = both.get_config()
    config.scheduler.enabled = False
    config.losses.information_distortion_mitigation = False
    return config
