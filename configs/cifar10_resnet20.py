"""ResNet-20 on CIFAR-10, from an image folder: the whole method on one small machine.

Paper: RFQuant (Tang et al., CVPR 2024, arXiv 2401.01543); the data set is not one of the paper's.
Sampling, scheduler and step-size learning rate differ from the paper, see docs/training.md.
Needs: a folder with train/<class>/* and val/<class>/*, 32x32 images, and weights of a CIFAR
ResNet-20 with parameter-free shortcuts. Without weights: --config.pretrain.epochs=100
--config.pretrain.warmup_epochs=5 --config.tasks=pretrain,train,search,evaluate.
Expected: docs/results.md has the run of 1,500 steps. Time: 30 epochs are 21,000 steps, some hours
on two processor cores; with --config.train.steps_per_epoch=50 --config.train.ema_decay=0.99 it is
1,500 steps and under an hour.
Command: python launch.py --config=configs/cifar10_resnet20.py --config.data.path=DIR \
    --config.pretrained=FILE
"""

from ml_collections import ConfigDict

from rfquant_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.tasks = ("train", "search", "evaluate")
    config.model.name = "cifar_resnet20"

    config.data.num_classes, config.data.image_size, config.data.resize = 10, 32, 0
    config.data.augmentation, config.data.search_fraction = "pad", 0.1

    config.pretrain.epochs, config.pretrain.warmup_epochs = 0, 0
    config.pretrain.ema_decay = 0.999

    # The epochs of the published schedule, scaled from 150 to 30.
    config.train.epochs, config.train.batch_size = 30, 64
    config.train.eval_every = 10
    config.train.ema_decay = 0.999
    config.optimizer.lr, config.optimizer.warmup_epochs = 0.02, 1
    config.optimizer.step_size_lr = 1e-3  # the published 1e-5 is for 375,000 steps
    config.scheduler.start_epoch, config.scheduler.late_period = 1, 3
    config.losses.damping_start_epoch = 8
    # Not as published: cheap configurations are trained as often as others, see docs/training.md.
    config.train.sampling, config.train.smallest_pass = "levels", 1.0
    config.scheduler.release_from = 0.6

    # On images as they are, recalibration costs ResNet-20 2.3 points even in full precision; on
    # images augmented as in training it costs none.
    config.evaluate.augment = True

    config.search.batch_size = 128
    config.search.budgets = "1*w6a6,1*w5a5,1*w4a4,1*w3a3,1.05*w2a2"
    return config
