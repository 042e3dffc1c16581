"""Fields of the network and of its images."""

from __future__ import annotations

from rfquant_jax.config.declaration import Field, section
from rfquant_jax.config.transforms import AUGMENTATIONS, RESIZED_CROP
from rfquant_jax.data.transforms import INTERPOLATIONS
from rfquant_jax.runtime.setting import BELOW_ONE, FRACTION, INSIDE, NOT_EMPTY, SEED, one_of

MODEL = section(
    "model",
    "the network",
    name=Field("resnet18", "a network of rfquant_jax.models.REGISTRY"),
    options=Field({}, "additional arguments of the network's constructor"),
)

DATA = section(
    "data",
    "the images",
    name=Field("folder", "folder, digits, or tfds: and the name of a prepared data set"),
    path=Field(
        "",
        "folder with train and val; for TFDS its data_dir, empty: its default",
        resumable=True,
        path=True,
    ),
    num_classes=Field(0, "required number of classes; 0: any; the task cost trusts it"),
    image_size=Field(224, "height and width of the network's input; 0: unchanged"),
    resize=Field(256, "pixels of the shorter side before the centre crop; 0: image_size"),
    interpolation=Field("bilinear", "for resizing", one_of(INTERPOLATIONS)),
    augmentation=Field(
        RESIZED_CROP,
        "of training images; resized_crop: random area and aspect",
        one_of((*AUGMENTATIONS,)),
    ),
    crop_padding=Field(4, "pixels of padding on each side with pad"),
    flip=Field(True, "flip training images left to right with probability 0.5"),
    mean=Field((0.485, 0.456, 0.406), "subtracted from images in [0, 1], per channel", NOT_EMPTY),
    std=Field((0.229, 0.224, 0.225), "divides them afterwards, per channel", NOT_EMPTY),
    max_bad_fraction=Field(
        0.01, "fraction of a data set's images that may be unreadable", FRACTION, resumable=True
    ),
    search_fraction=Field(0.01, "fraction of training images held out for the search", INSIDE),
    split_seed=Field(0, "seed of both held-out splits; independent of config.seed", SEED),
    val_fraction=Field(
        0.0, "fraction of training images to test on, if there are no others", BELOW_ONE
    ),
    threads=Field(0, "batches prepared in parallel; 0: one per CPU core", resumable=True),
)
