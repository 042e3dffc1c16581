"""ResNet18: the best configuration for a budget, without retraining.

Paper: RFQuant (Tang et al., CVPR 2024, arXiv 2401.01543), section 3.3.
Expected: the paper reports 71.0 % top-1 at 31.6 GBitOPs, below the budget; not run here.
The paper's own search, for a comparison: --config.search.algorithm=paper.
Needs: the finished run of the recipe of the same name in configs/training.
Hardware: one GPU is enough. Time: not measured.
Command: python launch.py --config=configs/search/resnet18.py --config.data.path=IMAGENET
Other budgets: --config.search.budgets=30G,5MB --workdir=runs/search/resnet18_other
"""

from ml_collections import ConfigDict

from configs.training import resnet18


def get_config() -> ConfigDict:
    config = resnet18.get_config()
    config.tasks = ("search", "evaluate")
    config.checkpoint = "runs/training/resnet18"
    return config
