"""ResNet18 on ImageNet, taught by a full-precision ResNet101 as well as by its own largest bits.

Paper: RFQuant (Tang et al., CVPR 2024, arXiv 2401.01543), section 4.
Expected: the paper reports 70.9 % top-1 at the 3-bit level; not run here.
Hardware: 4 GPUs, 128 images each, and room for a ResNet101's forward pass. Time: not measured.
Needs: the run of configs/eval/resnet101.py, and its file of weights, which is read again.
Command: python launch.py --config=configs/eval/resnet101.py --config.data.path=IMAGENET \
    --config.pretrained=resnet101.safetensors
Then: python launch.py --config=configs/training/resnet18_distilled.py --config.data.path=IMAGENET \
    --config.pretrained=resnet18.safetensors
Then: python launch.py --config=configs/search/resnet18.py --config.data.path=IMAGENET \
    --config.checkpoint=runs/training/resnet18_distilled --config.search.budgets="1*w3a3" \
    --workdir=runs/search/resnet18_distilled
"""

from ml_collections import ConfigDict

from configs.training import resnet18


def get_config() -> ConfigDict:
    config = resnet18.get_config()
    config.distillation.teacher = "runs/eval/resnet101"
    return config
