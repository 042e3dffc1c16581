"""80 epochs of ResNet18 on ImageNet: scheduler and information distortion mitigation.

Paper: RFQuant (Tang et al., CVPR 2024, arXiv 2401.01543), section 4.
Expected: the paper reports +1.2 points over neither. Not run here (on small data: docs/results.md).
Hardware: 4 GPUs, 128 images each. Time: not measured.
Command: python launch.py --config=configs/ablation/both.py --config.data.path=IMAGENET \
    --config.pretrained=resnet18.safetensors
"""

from ml_collections import ConfigDict

from configs.training import resnet18


def get_config() -> ConfigDict:
    config = resnet18.get_config()
    config.tasks = ("train", "search", "evaluate")
    config.train.epochs = 80
    config.scheduler.enabled = True
    config.losses.information_distortion_mitigation = True
    config.search.budgets = "1.05*w3a3,1.05*w2a2"
    return config
