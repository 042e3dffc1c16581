"""ResNet18 on CIFAR-100 at 224x224: ImageNet weights, fine-tuned, then trained for all bit-widths.

Paper: RFQuant (Tang et al., CVPR 2024, arXiv 2401.01543); the data set, the schedule,
the sampling and the release of the scheduler are not the paper's.
Needs: CIFAR-100 prepared once by TFDS, with TensorFlow in an environment of its own:
    tfds build cifar100 --file_format=array_record
and here the extra `tfds`, which requirements.txt installs.
Expected: not run here. Hardware: one GPU. Time: not measured.
Command: python launch.py --config=configs/transfer/cifar100_resnet18.py \
    --config.pretrained=resnet18.safetensors
"""

from ml_collections import ConfigDict

from rfquant_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.data.name, config.data.num_classes = "tfds:cifar100", 100
    config.data.resize = 224  # nothing is gained by cutting the border off such small images
    config.data.search_fraction = 0.1

    # Full precision: the classifier is new, the rest starts from ImageNet.
    config.pretrain.epochs, config.pretrain.batch_size, config.pretrain.warmup_epochs = 20, 128, 1
    config.pretrain.lr, config.pretrain.ema_decay = 0.01, 0.999

    config.train.epochs, config.train.batch_size = 30, 128
    config.train.ema_decay = 0.999
    config.optimizer.lr, config.optimizer.warmup_epochs = 0.02, 1
    config.scheduler.start_epoch, config.scheduler.late_period = 1, 3
    config.losses.damping_start_epoch = 8
    # Not as published: cheap configurations are trained as often as others, see docs/training.md.
    config.train.sampling, config.train.smallest_pass = "levels", 1.0
    config.scheduler.release_from = 0.6
    config.search.budgets = "1.05*w4a4,1.05*w3a3,1.05*w2a2"
    return config
