"""EfficientNet-Lite-B0 on ImageNet for 6 to 2 bits (depthwise: to 3) at once: the published run.

Paper: RFQuant (Tang et al., CVPR 2024, arXiv 2401.01543), section 4.
Expected: the paper reports 73.2 % top-1 at 6.9 GBitOPs after the search; not run here.
Hardware: 4 GPUs with 128 of a step's 512 images each. One GPU with the same BatchNorm batch:
--config.train.accumulate=4. Time: not measured.
Weights: timm's efficientnet_lite0, which PyTorch trained. timm's tf_efficientnet_lite0 was trained
with TensorFlow: --config.model.options.padding=SAME --config.model.options.epsilon=1e-3
--config.data.mean="(0.5,0.5,0.5)" --config.data.std="(0.5,0.5,0.5)".
(The same options go with the recipes of search and eval then.)
Command: python launch.py --config=configs/training/efficientnet_lite0.py \
    --config.data.path=IMAGENET --config.pretrained=efficientnet_lite0.safetensors
Then: python launch.py --config=configs/search/efficientnet_lite0.py --config.data.path=IMAGENET
"""

from ml_collections import ConfigDict

from configs.training import mobilenetv2


def get_config() -> ConfigDict:
    config = mobilenetv2.get_config()
    config.model.name = "efficientnet_lite0"
    config.data.interpolation = "bicubic"
    config.search.budgets = "6.9G"
    return config
