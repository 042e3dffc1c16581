"""Every field of the configuration, with its unit and meaning, at the values of the paper's recipe.

The values are those of ResNet18 on ImageNet (RFQuant, CVPR 2024, arXiv 2401.01543). A recipe takes
this config and overrides fields; any field can be overridden on the command line, for example
`--config.optimizer.lr=0.02`. Epochs are counted from 0. `--help` prints the comments below.
"""

from ml_collections import ConfigDict


def default_config() -> ConfigDict:
    """A new config with every field at its default."""
    config = ConfigDict()
    config.tasks = ("pretrain", "train", "search", "evaluate")  # export, predict; cost alone
    config.seed = 0  # decides initial weights, data order, sampled configurations
    config.devices = 0  # devices to use, of all processes together; 0: all there are
    config.deterministic = False  # on GPUs: repeat a run bit for bit, slower; processors always do
    config.compilation_cache = "auto"  # folder; auto: one of the user's cache; empty: none
    config.precision = "auto"  # compute type: float32, bfloat16; auto: bfloat16 on GPUs only
    config.checkpoint = ""  # workdir of another run to take the trained networks from
    config.pretrained = ""  # file of PyTorch-named weights to start from; see pretrain.epochs
    config.configuration = ""  # for evaluate, export, predict or cost: JSON file or w4a4

    config.distributed = ConfigDict()  # one run in several processes, on one host or many
    config.distributed.detect = True  # join the cluster that JAX detects (SLURM, Open MPI, ...)
    config.distributed.coordinator = ""  # HOST:PORT of process 0, where none is detected
    config.distributed.processes = 0  # how many there are, with a coordinator
    config.distributed.process = 0  # this one's number, with a coordinator
    config.distributed.start_timeout_seconds = 300  # until all processes are there
    config.distributed.heartbeat_timeout_seconds = 30  # without a sign of life: a process is lost

    config.checkpoints = ConfigDict()  # of both trainings, beside those at evaluations
    config.checkpoints.keep = 2  # newest ones to keep of a stage, beside the best
    config.checkpoints.every_steps = 0  # updates between two; 0: none by count
    config.checkpoints.every_minutes = 15.0  # between two; 0: none by time

    config.model = ConfigDict()
    config.model.name = "resnet18"  # a network of rfquant_jax.models.REGISTRY
    config.model.options = ConfigDict()  # further arguments of that network's constructor

    config.data = ConfigDict()
    config.data.name = "folder"  # folder, digits, or tfds: and the name of a prepared data set
    config.data.path = ""  # folder with train and val; for TFDS its data_dir, empty: its default
    config.data.num_classes = 0  # that the data must have; 0: any; the task cost trusts it
    config.data.image_size = 224  # pixels of both sides as the network gets them; 0: as they are
    config.data.resize = 256  # pixels of the shorter side before the centre crop; 0: image_size
    config.data.interpolation = "bilinear"  # for resizing: bilinear or bicubic
    config.data.augmentation = "resized_crop"  # resized_crop (random area and aspect) or pad
    config.data.crop_padding = 4  # pixels pad adds on each side before it crops at random
    config.data.flip = True  # mirror half of the training images left to right
    config.data.mean = (0.485, 0.456, 0.406)  # subtracted from images in [0, 1], a number a channel
    config.data.std = (0.229, 0.224, 0.225)  # divides them afterwards, a number a channel
    config.data.max_bad_fraction = 0.01  # share of a data set's images that may be unreadable
    config.data.search_fraction = 0.01  # share of the training images held out for the search
    config.data.split_seed = 0  # decides which images are held out; not changed by config.seed
    config.data.threads = 0  # batches prepared side by side; 0: one for each processor core

    config.pretrain = ConfigDict()  # full-precision training, one plain pass a step
    config.pretrain.epochs = 90  # passes over the training images; 0: config.pretrained as it is
    config.pretrain.batch_size = 512  # images of a step, on all devices together
    config.pretrain.lr = 0.1  # peak learning rate of SGD
    config.pretrain.min_lr = 1e-5  # where the warm-up starts and the cosine ends
    config.pretrain.warmup_epochs = 5  # epochs of linear warm-up
    config.pretrain.momentum = 0.9  # Nesterov momentum
    config.pretrain.weight_decay = 1e-4  # L2, on convolution kernels
    config.pretrain.label_smoothing = 0.0  # share of the target spread over all classes
    config.pretrain.ema_decay = 0.9997  # of parameters and statistics, per step; the EMA is kept

    config.quant = ConfigDict()
    config.quant.candidates = (6, 5, 4, 3, 2)  # bit-widths, largest first; 32: not quantized
    config.quant.depthwise_min_bits = 3  # depthwise convolutions never go below
    config.quant.fixed_bits = 8  # of the first convolution's weights and of dense layers
    config.quant.rules = ()  # (layer pattern, bit-widths) pairs: several narrow, one fixes
    config.quant.signed = ()  # layer patterns whose input is signed whatever calibration finds
    config.quant.unsigned = ()  # layer patterns whose input is unsigned whatever calibration finds
    config.quant.split_candidates = False  # freezing weight bits leaves activation bits alone
    config.quant.scale_gradient = False  # LSQ's 1/sqrt(numel * Qp) on step-size gradients
    config.quant.calibration_batches = 8  # batches of training images for activation step sizes

    config.train = ConfigDict()  # coupled training
    config.train.epochs = 150  # passes over the training images; 0: post-training quantization
    config.train.batch_size = 512  # images of an update, on all devices together
    config.train.accumulate = 1  # micro-batches that an update's images are cut into
    config.train.steps_per_epoch = 0  # updates that count as an epoch; 0: one pass over the images
    config.train.random_passes = 3  # K: random configurations per step, beside the largest one
    config.train.sampling = "independent"  # of random passes: or levels, one for all layers a pass
    config.train.level_spread = 0.8  # of levels: standard deviation of the layers' bits around it
    config.train.smallest_pass = 0.0  # probability that a step has a pass at the smallest bits
    config.train.strategy = "auto"  # how passes are strung together: loop, unroll, scan; auto
    config.train.label_smoothing = 0.0  # share of the target spread over all classes
    config.train.ema_decay = 0.9997  # of parameters, step sizes and statistics, per step
    config.train.eval_every = 5  # epochs between evaluations and checkpoints
    config.train.log_every = 50  # steps between lines of metrics
    config.train.max_bad_steps = 10  # steps in a row without a finite loss until training stops

    config.optimizer = ConfigDict()  # of coupled training
    config.optimizer.lr = 0.04  # peak learning rate of SGD
    config.optimizer.min_lr = 1e-5  # where the warm-up starts and the cosine ends
    config.optimizer.warmup_epochs = 5  # epochs of linear warm-up
    config.optimizer.momentum = 0.9  # Nesterov momentum
    config.optimizer.weight_decay = 2.5e-5  # L2, on convolution kernels
    config.optimizer.clip = 1.0  # largest size of a gradient element
    config.optimizer.adam_b1 = 0.9  # of Adam for step sizes: decay of the gradients' average
    config.optimizer.adam_b2 = 0.999  # of Adam for step sizes: decay of their squares' average
    config.optimizer.adam_epsilon = 1e-8  # of Adam for step sizes: keeps the division finite
    config.optimizer.step_size_lr = 1e-5  # of Adam for step sizes at the start; cosine to 0

    config.scheduler = ConfigDict()  # freezes the smallest bit-width of turbulent layers
    config.scheduler.enabled = True  # False: every bit-width may always be sampled
    config.scheduler.start_epoch = 5  # it fires in epochs after this one
    config.scheduler.period = 2  # epochs between firings
    config.scheduler.late_period = 15  # epochs between firings at the end
    config.scheduler.late_from = 0.72  # share of the epochs after which late_period applies
    config.scheduler.release_from = 1.0  # share of the epochs after which nothing is frozen
    config.scheduler.ratio_min = 0.2  # share of layers frozen at the end
    config.scheduler.ratio_amplitude = 0.15  # the share starts at ratio_min + 2 * this
    config.scheduler.boundary = 0.25  # p: width of the unstable zone, share of half a bin

    config.losses = ConfigDict()  # terms beside cross-entropy and distillation from the max pass
    config.losses.distillation = 0.5  # share of the loss that distillation takes from cross-entropy
    config.losses.information_distortion_mitigation = True  # False also saves the features' memory
    config.losses.lambda_idm = 0.01  # weight of information distortion mitigation
    config.losses.damping = 0.1  # eta: final weight of oscillation damping; 0: off
    config.losses.damping_start_epoch = 40  # damping rises on a cosine after this epoch
    config.losses.wd_region = 0.0  # weight decay inside the 2-bit clipping range

    config.distillation = ConfigDict()
    config.distillation.teacher = ""  # workdir of a run whose full-precision network teaches

    config.evaluate = ConfigDict()
    config.evaluate.batch_size = 128  # images per device
    config.evaluate.recalibration_images = 7000  # at most so many held-out images
    config.evaluate.augment = False  # recalibrate on augmented images

    config.search = ConfigDict()
    config.search.budgets = "33.9G"  # by commas: GBitOPs, 2.3MB, 60KB, 5ms, 30G+2MB, 1.05*w4a4
    config.search.algorithm = "trust_region"  # trust_region, greedy, paper, evolution, random
    #   trust_region solves integer programs on a model fitted to a profile of the network
    #   paper is the published greedy search but for three things: it makes an up move from the
    #   smallest bit-width (the published program chooses it and stays where it is), it enters no
    #   state twice, and weights move until activations alone can reach the budget
    config.search.profile = 400  # of trust_region: configurations measured once for all budgets
    config.search.evaluations = 60  # for each budget, of trust_region and random
    config.search.images = 2000  # of trust_region: images of a profile, at most
    config.search.views = 5  # of trust_region: few images count augmented so many times, at most
    config.search.batch_size = 256  # held-out images of a batch that candidates are evaluated on
    config.search.starts = 16  # layers an evaluation may start at; fewer: less memory, more time
    config.search.confirm_fraction = 0.5  # share of the held-out images that only finalists see
    #   trust_region with fewer than 2,000: each half proposes, and the other half confirms
    config.search.start_bits = 0  # uniform bit-width at the start; 0: 5, else the middle candidate
    config.search.min_bits = 0  # no layer goes below; 0: the smallest candidate
    config.search.max_bits = 0  # no layer goes above; 0: the largest candidate
    config.search.use_frozen = True  # also bit-widths frozen at the checkpoint that is searched
    config.search.pins = ()  # (layer pattern, (weight bits, activation bits)) pairs left alone
    config.search.groups = ()  # (weights, activations or both, layer patterns): equal bits there
    config.search.latency_table = ""  # JSON or CSV of layer, w_bits, a_bits, milliseconds
    config.search.alpha = 1.5  # weight of the error against the cost
    config.search.metric = "divergence"  # or error (top-1), cross_entropy; "paper" has error
    config.search.normalize = "minmax"  # of error and cost over the candidates: max or minmax
    config.search.joint = False  # of greedy: weights and activations move in one phase
    config.search.max_iterations_per_layer = 20  # afterwards only downward moves; 0: never

    config.search.frontier_points = 12  # configurations of the curve to confirm, of 30
    config.search.keep = 10  # of random and evolution: finalists to confirm; also parents
    config.search.min_load = 0.95  # of random and evolution: share of the budget to use up
    config.search.population = 50  # of evolution: configurations of a generation
    config.search.generations = 20  # of evolution
    config.search.mutation_probability = 0.2  # of evolution: that a mutation changes a bit-width

    config.predict = ConfigDict()
    config.predict.images = ""  # folder of images, however deep, that the task predict classifies
    config.predict.top = 5  # classes written for each image, the most probable first

    config.export = ConfigDict()
    formats = ("integer", "onnx", "onnx_small", "onnx_fast", "stablehlo", "c", "bundle")
    config.export.formats = formats  # to write, the integer one always; tflite needs ai-edge-litert
    config.export.platforms = ("cpu", "cuda")  # of the StableHLO artifact: cpu, cuda, rocm, tpu
    config.export.batch = 0  # images that the StableHLO artifact takes at a time; 0: any number
    config.export.images = 1000  # at most so many held-out images to verify predictions on
    config.export.code_images = 100  # of them, to compare the codes of every layer on
    # Shares of predictions and, in each layer, of codes, but always at least one: more is an error.
    config.export.max_unequal = 0.001  # integer runtime, against the evaluation in float64
    # The other formats round floats in their own way, as the evaluation in float32 does: 0.001 is
    # the goal, this a bound that nothing but a broken file reaches.
    config.export.max_unequal_float = 0.005  # against the evaluation in float32
    config.export.max_differing_codes = 1e-5  # in float32, from rounding; in float64 none may
    return config
