"""MobileNetV2: exact accuracy of one configuration on ImageNet's validation images.

Paper: RFQuant (Tang et al., CVPR 2024, arXiv 2401.01543), section 4.
Expected: the paper reports 70.7 % top-1 at 5.5 GBitOPs; not run here.
Needs: the finished runs of the recipes of the same name in configs/training and configs/search.
Hardware: one GPU is enough. Time: not measured.
Command: python launch.py --config=configs/eval/mobilenetv2.py --config.data.path=IMAGENET
Another configuration: --config.configuration=w4a4. The imported weights in full precision:
python launch.py --config=configs/training/mobilenetv2.py --config.tasks=evaluate \
    --config.data.path=IMAGENET --config.pretrained=FILE --workdir=runs/mobilenetv2_fp
"""

from ml_collections import ConfigDict

from configs.training import mobilenetv2


def get_config() -> ConfigDict:
    config = mobilenetv2.get_config()
    config.tasks = ("evaluate",)
    config.checkpoint = "runs/training/mobilenetv2"
    config.configuration = "runs/search/mobilenetv2/search/5.58G.json"
    return config
