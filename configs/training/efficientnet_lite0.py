"""EfficientNet-Lite-B0 on ImageNet for 6, 5, 4, 3 and 2 bits at once: the published run.

Paper: RFQuant (Tang et al., CVPR 2024, arXiv 2401.01543), section 4.
Expected: the paper reports 73.2 % top-1 at 6.9 GBitOPs after the search; not run here.
Hardware: 4 GPUs, 128 of a step's 512 images each; on fewer, train.accumulate keeps it at 128.
Time: not measured.
Weights: timm's efficientnet_lite0, which PyTorch trained. timm's tf_efficientnet_lite0 was trained
with TensorFlow: --config.model.options.padding=SAME --config.model.options.epsilon=1e-3
--config.data.mean="(0.5,0.5,0.5)" --config.data.std="(0.5,0.5,0.5)".
(The same options go with the recipes of search and eval then.)
Command: python launch.py --config=configs/training/efficientnet_lite0.py \
    --config.data.path=IMAGENET --config.pretrained=efficientnet_lite0.safetensors
Then: configs/search/efficientnet_lite0.py
"""

from ml_collections import ConfigDict

from configs.training import mobilenetv2


def get_config() -> ConfigDict:
    config = mobilenetv2.get_config()
    config.model.name = "efficientnet_lite0"
    config.data.interpolation = "bicubic"
    config.search.budgets = "6.9G"
    return config
