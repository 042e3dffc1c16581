"""MobileNetV2 for 32x32 images on CIFAR-10, from an image folder: the whole method on one machine.

Paper: RFQuant (Tang et al., CVPR 2024, arXiv 2401.01543); the data set is not one of the paper's.
Sampling, scheduler and step-size learning rate differ from the paper, see docs/training.md.
Needs: a folder with train/<class>/* and val/<class>/*, 32x32 images.
Expected: docs/results.md has a shorter run. Time: about 4 hours on two processor cores, of which
1.5 hours in full precision; it can be stopped and resumed at any time.
Command: python launch.py --config=configs/cifar10_mobilenetv2.py --config.data.path=DIR
"""

from ml_collections import ConfigDict

from rfquant_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.model.name = "mobilenetv2"
    config.model.options.width = 0.25  # factor of the channels
    config.model.options.small_images = True  # stride 1 in the stem and the first two stages

    config.data.num_classes, config.data.image_size, config.data.resize = 10, 32, 0
    config.data.augmentation, config.data.search_fraction = "pad", 0.1

    config.pretrain.epochs, config.pretrain.batch_size = 20, 128
    config.pretrain.warmup_epochs = 0  # the first epoch of a warm-up has the rate `min_lr`
    config.pretrain.ema_decay = 0.998

    # The epochs of the published schedule, scaled from 150 to 30; an "epoch" is shortened to 100
    # updates, so that the coupled training sees each image 8 to 9 times.
    config.quant.split_candidates = True
    config.train.epochs, config.train.batch_size = 30, 128
    config.train.steps_per_epoch, config.train.eval_every = 100, 10
    config.train.ema_decay = 0.998
    config.optimizer.warmup_epochs = 1
    # The published 1e-5 is for 375,000 steps; with 1e-3, step sizes fall to their lower bound.
    config.optimizer.step_size_lr = 1e-4
    config.scheduler.start_epoch, config.scheduler.late_period = 1, 3
    config.losses.damping_start_epoch = 8
    # Not as published: cheap configurations are trained as often as others, see docs/training.md.
    config.train.sampling, config.train.smallest_pass = "levels", 1.0
    config.scheduler.release_from = 0.6

    # As for ResNet-20, whose recalibration on images as they are costs accuracy.
    config.evaluate.augment = True

    config.search.budgets = "1*w6a6,1*w5a5,1*w4a4,1*w3a3,1.05*w2a2"
    return config
