"""ResNet101 in full precision: a check of its weights, and the teacher of resnet18_distilled.

Network: He et al., CVPR 2016, with the stride on the 3x3 convolutions.
Expected: what the source of the weights says; not run here.
Hardware: one GPU is enough. Time: not measured.
Command: python launch.py --config=configs/eval/resnet101.py --config.data.path=IMAGENET \
    --config.pretrained=resnet101.safetensors
"""

from ml_collections import ConfigDict

from configs.training import resnet18


def get_config() -> ConfigDict:
    config = resnet18.get_config()
    config.tasks = ("evaluate",)
    config.model.name = "resnet101"
    return config
