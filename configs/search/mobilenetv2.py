"""MobileNetV2: the best configuration for a budget, without retraining.

Paper: RFQuant (Tang et al., CVPR 2024, arXiv 2401.01543), section 3.3.
Expected: the paper reports 70.7 % top-1 at 5.5 GBitOPs, below the budget; not run here.
The paper's own search, for a comparison: --config.search.algorithm=paper.
Needs: the finished run of the recipe of the same name in configs/training.
Hardware: one GPU is enough. Time: not measured.
Command: python launch.py --config=configs/search/mobilenetv2.py --config.data.path=IMAGENET
Other budgets: --config.search.budgets=4G,2.2MB --workdir=runs/search/mobilenetv2_other
"""

from ml_collections import ConfigDict

from configs.training import mobilenetv2


def get_config() -> ConfigDict:
    config = mobilenetv2.get_config()
    config.tasks = ("search", "evaluate")
    config.checkpoint = "runs/training/mobilenetv2"
    return config
