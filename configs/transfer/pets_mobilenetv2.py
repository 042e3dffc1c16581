"""MobileNetV2 on the Oxford pets: ImageNet weights, fine-tuned, then trained for all bit-widths.

Paper: RFQuant (Tang et al., CVPR 2024, arXiv 2401.01543); the data set, the schedule,
the sampling and the release of the scheduler are not the paper's.
Needs: the pets prepared once by TFDS, with TensorFlow in an environment of its own:
    tfds build oxford_iiit_pet --file_format=array_record
or an image folder with train and val: --config.data.name=folder --config.data.path=DIR, and for
other breeds than the 37 --config.data.num_classes=0 (and --config.search.batch_size=30 for a few
hundred images).
Expected: not run here. Hardware: one GPU. Time: not measured.
Command: python launch.py --config=configs/transfer/pets_mobilenetv2.py \
    --config.pretrained=mobilenetv2.safetensors
"""

from ml_collections import ConfigDict

from rfquant_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.model.name = "mobilenetv2"
    config.model.options.dropout = 0.2
    config.model.options.padding = "symmetric"  # as PyTorch pads; TensorFlow: SAME
    config.model.options.epsilon = 1e-5  # of BatchNorm; TensorFlow: 1e-3
    config.data.name, config.data.num_classes = "tfds:oxford_iiit_pet", 37
    config.data.search_fraction = 0.2
    config.quant.split_candidates = True

    # Full precision: the classifier is new, the rest starts from ImageNet.
    config.pretrain.epochs, config.pretrain.batch_size, config.pretrain.warmup_epochs = 30, 32, 1
    config.pretrain.lr, config.pretrain.ema_decay = 0.01, 0.99

    config.train.epochs, config.train.batch_size = 60, 32
    config.train.label_smoothing, config.train.ema_decay = 0.1, 0.99
    config.optimizer.lr, config.optimizer.warmup_epochs = 0.02, 2
    config.optimizer.step_size_lr = 1e-4
    config.scheduler.start_epoch, config.scheduler.late_period = 2, 6
    config.losses.damping_start_epoch = 16
    # Not as published: cheap configurations are trained as often as others, see docs/training.md.
    config.train.sampling, config.train.smallest_pass = "levels", 1.0
    config.scheduler.release_from = 0.6
    config.evaluate.batch_size = 32
    config.search.budgets, config.search.batch_size = "1.05*w4a4,1.05*w3a3", 64
    return config
