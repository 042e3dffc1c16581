"""MobileNetV2 on ImageNet for 6 to 2 bits (depthwise: to 3) at once: the published run.

Paper: RFQuant (Tang et al., CVPR 2024, arXiv 2401.01543), section 4.
Expected: the paper reports 70.7 % top-1 at 5.5 GBitOPs after the search; not run here.
Hardware: 4 GPUs with 128 of a step's 512 images each. One GPU with the same BatchNorm batch:
--config.train.accumulate=4. Time: not measured.
Weights: torchvision's mobilenet_v2, timm's mobilenetv2_100. Weights trained with TensorFlow need
--config.model.options.padding=SAME --config.model.options.epsilon=1e-3 and
--config.data.mean="(0.5,0.5,0.5)" --config.data.std="(0.5,0.5,0.5)".
(The same options go with the recipes of search and eval then.)
Command: python launch.py --config=configs/training/mobilenetv2.py --config.data.path=IMAGENET \
    --config.pretrained=mobilenetv2.safetensors
Then: python launch.py --config=configs/search/mobilenetv2.py --config.data.path=IMAGENET
"""

from ml_collections import ConfigDict

from configs.training import resnet18


def get_config() -> ConfigDict:
    config = resnet18.get_config()
    config.model.name = "mobilenetv2"
    config.model.options.dropout = 0.2
    config.model.options.padding = "symmetric"  # as PyTorch pads; TensorFlow: SAME
    config.model.options.epsilon = 1e-5  # of BatchNorm; TensorFlow: 1e-3
    config.train.label_smoothing = 0.1
    config.quant.split_candidates = True
    config.search.budgets, config.search.batch_size = "5.58G", 512
    return config
