"""EfficientNet-Lite-B0: exact accuracy of one configuration on ImageNet's validation images.

Paper: RFQuant (Tang et al., CVPR 2024, arXiv 2401.01543), section 4.
Expected: the paper reports 73.2 % top-1 at 6.9 GBitOPs; not run here.
Needs: the finished runs of the recipes of the same name in configs/training and configs/search.
Hardware: one GPU is enough. Time: not measured.
Command: python launch.py --config=configs/eval/efficientnet_lite0.py --config.data.path=IMAGENET
Another configuration: --config.configuration=w4a4. The imported weights in full precision:
python launch.py --config=configs/training/efficientnet_lite0.py --config.tasks=evaluate \
    --config.data.path=IMAGENET --config.pretrained=FILE --workdir=runs/efficientnet_lite0_fp
"""

from ml_collections import ConfigDict

from configs.training import efficientnet_lite0


def get_config() -> ConfigDict:
    config = efficientnet_lite0.get_config()
    config.tasks = ("evaluate",)
    config.checkpoint = "runs/training/efficientnet_lite0"
    config.configuration = "runs/search/efficientnet_lite0/search/6.9G.json"
    return config
