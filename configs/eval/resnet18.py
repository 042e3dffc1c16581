"""ResNet18: exact accuracy of one configuration on ImageNet's validation images.

Paper: RFQuant (Tang et al., CVPR 2024, arXiv 2401.01543), section 4.
Expected: the paper reports 71.0 % top-1 at 31.6 GBitOPs; not run here.
Needs: the finished runs of the recipes of the same name in configs/training and configs/search.
Hardware: one GPU is enough. Time: not measured.
Command: python launch.py --config=configs/eval/resnet18.py --config.data.path=IMAGENET
Another configuration: --config.configuration=w4a4. The imported weights in full precision:
python launch.py --config=configs/training/resnet18.py --config.tasks=evaluate \
    --config.data.path=IMAGENET --config.pretrained=FILE --workdir=runs/resnet18_fp
"""

from ml_collections import ConfigDict

from configs.training import resnet18


def get_config() -> ConfigDict:
    config = resnet18.get_config()
    config.tasks = ("evaluate",)
    config.checkpoint = "runs/training/resnet18"
    config.configuration = "runs/search/resnet18/search/33.9G.json"
    return config
