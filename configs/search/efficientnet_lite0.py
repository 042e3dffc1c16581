"""EfficientNet-Lite-B0: the best configuration for a budget, without retraining.

Paper: RFQuant (Tang et al., CVPR 2024, arXiv 2401.01543), section 3.3.
Expected: the paper reports 73.2 % top-1 at 6.9 GBitOPs, below the budget; not run here.
The paper's own search, for a comparison: --config.search.algorithm=paper.
Needs: the finished run of the recipe of the same name in configs/training.
Hardware: one GPU is enough. Time: not measured.
Command: python launch.py --config=configs/search/efficientnet_lite0.py --config.data.path=IMAGENET
Other budgets: --config.search.budgets=5G,2.7MB --workdir=runs/search/efficientnet_lite0_other
"""

from ml_collections import ConfigDict

from configs.training import efficientnet_lite0


def get_config() -> ConfigDict:
    config = efficientnet_lite0.get_config()
    config.tasks = ("search", "evaluate")
    config.checkpoint = "runs/training/efficientnet_lite0"
    return config
