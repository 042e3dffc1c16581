"""ResNet18 on ImageNet for 6, 5, 4, 3 and 2 bits at once: the published run.

Paper: RFQuant (Tang et al., CVPR 2024, arXiv 2401.01543), section 4.
Expected: the paper reports 71.0 % top-1 at 31.6 GBitOPs after the search; not run here.
Hardware: 4 GPUs with 128 of a step's 512 images each. One GPU with the same BatchNorm batch:
--config.train.accumulate=4. Time: not measured.
Weights: timm's gluon_resnet18_v1b or resnet18, torchvision's resnet18.
Command: python launch.py --config=configs/training/resnet18.py --config.data.path=IMAGENET \
    --config.pretrained=resnet18.safetensors
Then: python launch.py --config=configs/search/resnet18.py --config.data.path=IMAGENET
"""

from ml_collections import ConfigDict

from rfquant_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()  # which holds the published values
    config.tasks = ("train",)
    config.data.num_classes = 1000
    # Training starts from the weights of config.pretrained as they are.
    config.pretrain.epochs, config.pretrain.warmup_epochs = 0, 0
    return config
