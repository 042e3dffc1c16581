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
    config.seed = 0  # seed of initial weights, data order, sampled configurations
    config.devices = 0  # number of devices, over all processes; 0: all
    config.deterministic = False  # on GPU: bitwise reproducible, slower; CPU always is
    config.compilation_cache = "auto"  # folder; auto: in the user's cache folder; empty: none
    config.precision = "auto"  # compute dtype: float32, bfloat16; auto: bfloat16 on GPU only
    config.checkpoint = ""  # workdir of another run with trained networks
    config.pretrained = ""  # file of PyTorch-named weights to start from; see pretrain.epochs
    config.configuration = ""  # for evaluate, export, predict or cost: JSON file or w4a4

    config.distributed = ConfigDict()  # one run in several processes, on one host or many
    config.distributed.detect = True  # join the cluster that JAX detects (SLURM, Open MPI, ...)
    config.distributed.coordinator = ""  # HOST:PORT of process 0 if no cluster is detected
    config.distributed.processes = 0  # number of processes, with a coordinator
    config.distributed.process = 0  # index of this process, with a coordinator
    config.distributed.start_timeout_seconds = 300  # time for all processes to connect
    config.distributed.heartbeat_timeout_seconds = 30  # without heartbeat, a process counts as lost

    config.checkpoints = ConfigDict()  # in addition to checkpoints at evaluations
    config.checkpoints.keep = 2  # newest checkpoints to keep per stage, besides the best
    config.checkpoints.every_steps = 0  # updates between checkpoints; 0: off
    config.checkpoints.every_minutes = 15.0  # minutes between checkpoints; 0: off

    config.model = ConfigDict()
    config.model.name = "resnet18"  # a network of rfquant_jax.models.REGISTRY
    config.model.options = ConfigDict()  # additional arguments of the network's constructor

    config.data = ConfigDict()
    config.data.name = "folder"  # folder, digits, or tfds: and the name of a prepared data set
    config.data.path = ""  # folder with train and val; for TFDS its data_dir, empty: its default
    config.data.num_classes = 0  # required number of classes; 0: any; the task cost trusts it
    config.data.image_size = 224  # height and width of the network's input; 0: unchanged
    config.data.resize = 256  # pixels of the shorter side before the centre crop; 0: image_size
    config.data.interpolation = "bilinear"  # for resizing: bilinear or bicubic
    config.data.augmentation = "resized_crop"  # resized_crop (random area and aspect) or pad
    config.data.crop_padding = 4  # pixels of padding on each side with pad
    config.data.flip = True  # flip training images left to right with probability 0.5
    config.data.mean = (0.485, 0.456, 0.406)  # subtracted from images in [0, 1], per channel
    config.data.std = (0.229, 0.224, 0.225)  # divides them afterwards, per channel
    config.data.max_bad_fraction = 0.01  # fraction of a data set's images that may be unreadable
    config.data.search_fraction = 0.01  # fraction of training images held out for the search
    config.data.split_seed = 0  # seed of both held-out splits; independent of config.seed
    config.data.val_fraction = 0.0  # fraction of training images to test on, if there are no others
    config.data.threads = 0  # batches prepared in parallel; 0: one per CPU core

    config.pretrain = ConfigDict()  # full-precision training, one pass per step
    config.pretrain.epochs = 90  # passes over the training images; 0: keep config.pretrained
    config.pretrain.batch_size = 512  # images per step, over all devices
    config.pretrain.lr = 0.1  # peak learning rate of SGD
    config.pretrain.min_lr = 1e-5  # start of the warm-up and end of the cosine
    config.pretrain.warmup_epochs = 5  # epochs of linear warm-up
    config.pretrain.momentum = 0.9  # Nesterov momentum
    config.pretrain.weight_decay = 1e-4  # L2, on convolution kernels
    config.pretrain.label_smoothing = 0.0  # share of the target spread evenly over classes
    config.pretrain.ema_decay = 0.9997  # decay per step of the average that is saved

    config.quant = ConfigDict()
    config.quant.candidates = (6, 5, 4, 3, 2)  # bit-widths, largest first; 32: not quantized
    config.quant.depthwise_min_bits = 3  # minimum bit-width of depthwise convolutions
    config.quant.fixed_bits = 8  # of the first convolution's weights and of the classifier
    config.quant.rules = ()  # (layer pattern, bit-widths): several restrict, one fixes
    config.quant.signed = ()  # layer patterns with signed input, overriding calibration
    config.quant.unsigned = ()  # layer patterns with unsigned input, overriding calibration
    config.quant.split_candidates = False  # the scheduler freezes weight bits only
    config.quant.scale_gradient = False  # LSQ's 1/sqrt(numel * Qp) on step-size gradients
    config.quant.calibration_batches = 8  # batches of training images for activation step sizes

    config.train = ConfigDict()  # coupled training
    config.train.epochs = 150  # passes over the training images; 0: post-training quantization
    config.train.init = "pretrained"  # or checkpoint: the coupled network of config.checkpoint
    config.train.batch_size = 512  # images per update, over all devices
    config.train.accumulate = 1  # micro-batches per update
    config.train.steps_per_epoch = 0  # updates per epoch; 0: one pass over the images
    config.train.random_passes = 3  # K: random configurations per step, in addition to the largest
    config.train.sampling = "independent"  # independent, or levels: one level per random pass
    config.train.level_spread = 0.8  # standard deviation of bits around the level
    config.train.smallest_pass = 0.0  # probability that a step has a pass at the smallest bits
    config.train.strategy = "auto"  # execution of passes: loop, scan; auto
    config.train.label_smoothing = 0.0  # share of the target spread evenly over classes
    config.train.ema_decay = 0.9997  # of parameters, step sizes and statistics, per step
    config.train.eval_every = 5  # epochs between evaluations and checkpoints
    config.train.log_every = 50  # steps between logged metrics
    config.train.max_bad_steps = 10  # consecutive non-finite steps that abort training

    config.optimizer = ConfigDict()  # of coupled training
    config.optimizer.lr = 0.04  # peak learning rate of SGD
    config.optimizer.min_lr = 1e-5  # start of the warm-up and end of the cosine
    config.optimizer.warmup_epochs = 5  # epochs of linear warm-up
    config.optimizer.momentum = 0.9  # Nesterov momentum
    config.optimizer.weight_decay = 2.5e-5  # L2, on convolution kernels
    config.optimizer.clip = 1.0  # maximum magnitude of a gradient element
    config.optimizer.adam_b1 = 0.9  # Adam for step sizes: decay of the first moment
    config.optimizer.adam_b2 = 0.999  # Adam for step sizes: decay of the second moment
    config.optimizer.adam_epsilon = 1e-8  # Adam for step sizes: epsilon
    config.optimizer.step_size_lr = 1e-5  # Adam for step sizes: initial learning rate; cosine to 0

    config.scheduler = ConfigDict()  # freezes the smallest bit-width of unstable layers
    config.scheduler.enabled = True  # False: all bit-widths are always sampled
    config.scheduler.start_epoch = 5  # fires in later epochs only
    config.scheduler.period = 2  # epochs between firings
    config.scheduler.late_period = 15  # epochs between firings at the end
    config.scheduler.late_from = 0.72  # fraction of epochs after which late_period applies
    config.scheduler.release_from = 1.0  # fraction of epochs after which nothing is frozen
    config.scheduler.ratio_min = 0.2  # fraction of layers frozen at the end
    config.scheduler.ratio_amplitude = 0.15  # the fraction starts at ratio_min + 2 * this
    config.scheduler.boundary = 0.25  # p: width of the unstable zone, fraction of half a bin

    config.losses = ConfigDict()  # terms besides cross-entropy and distillation
    config.losses.distillation = 0.5  # weight of distillation; cross-entropy has 1 - this
    config.losses.information_distortion_mitigation = True  # False also saves the features' memory
    config.losses.lambda_idm = 0.01  # weight of information distortion mitigation
    config.losses.damping = 0.1  # eta: final weight of oscillation damping; 0: off
    config.losses.damping_start_epoch = 40  # damping rises on a cosine after this epoch
    config.losses.wd_region = 0.0  # weight decay inside the 2-bit clipping range

    config.distillation = ConfigDict()
    config.distillation.teacher = ""  # workdir of a run whose full-precision network is the teacher

    config.evaluate = ConfigDict()
    config.evaluate.batch_size = 128  # images per device
    config.evaluate.recalibration_images = 7000  # maximum number of held-out images
    config.evaluate.augment = False  # recalibrate on augmented images

    config.search = ConfigDict()
    config.search.budgets = "33.9G"  # list of 33.9G, 2.3MB, 60KB, 5ms, 30G+2MB, 1.05*w4a4, 50%:MB
    config.search.algorithm = "trust_region"  # trust_region, greedy, paper, evolution, random
    #   trust_region solves integer programs on a model fitted to a profile of the network
    #   paper is the published greedy search, except for three things: it makes an up move from the
    #   smallest bit-width (the published program chooses it and stays where it is), it enters no
    #   state twice, and weights move until activations alone can reach the budget
    config.search.profile = 400  # trust_region: configurations measured once for all budgets
    config.search.evaluations = 60  # trust_region and random: evaluations per budget
    config.search.images = 2000  # trust_region: maximum number of images of a profile
    config.search.views = 5  # trust_region: maximum number of augmented views of few images
    config.search.batch_size = 256  # held-out images per batch of an evaluation
    config.search.starts = 16  # cuts of evaluations (not trust_region); fewer: less memory, slower
    config.search.confirm_fraction = 0.5  # fraction of held-out images reserved for confirmation
    #   trust_region with fewer than 2,000: each half proposes, and the other half confirms
    config.search.start_bits = 0  # initial uniform bit-width; 0: 5, else the middle candidate
    config.search.min_bits = 0  # minimum bit-width; 0: the smallest candidate
    config.search.max_bits = 0  # maximum bit-width; 0: the largest candidate
    config.search.use_frozen = True  # include bit-widths frozen in the checkpoint
    config.search.pins = ()  # (layer pattern, (weight bits, activation bits)): fixed bits
    config.search.groups = ()  # (weights, activations or both, layer patterns): equal bits
    config.search.latency_table = ""  # JSON or CSV of layer, w_bits, a_bits, milliseconds
    config.search.alpha = 1.5  # weight of the error relative to the cost
    config.search.metric = "divergence"  # or error (top-1), cross_entropy; "paper" uses error
    config.search.normalize = "minmax"  # error and cost over the candidates: max or minmax
    config.search.joint = False  # greedy: weights and activations move in one phase
    config.search.max_iterations_per_layer = 20  # then only downward moves; 0: unlimited

    config.search.frontier_points = 12  # number of configurations of the curve to confirm, of 30
    config.search.keep = 10  # random and evolution: finalists to confirm; also parents
    config.search.min_load = 0.95  # random and evolution: fraction of the budget to use
    config.search.population = 50  # evolution: configurations per generation
    config.search.generations = 20  # of evolution
    config.search.mutation_probability = 0.2  # evolution: probability of changing a bit-width

    config.predict = ConfigDict()
    config.predict.images = ""  # folder of images to classify, at any depth
    config.predict.top = 5  # classes per image, most probable first

    config.export = ConfigDict()
    formats = ("integer", "onnx", "onnx_small", "onnx_fast", "stablehlo", "c", "bundle")
    config.export.formats = formats  # files to write, integer always; tflite needs ai-edge-litert
    config.export.platforms = ("cpu", "cuda")  # StableHLO platforms: cpu, cuda, rocm, tpu
    config.export.batch = 0  # batch size of the StableHLO artifact; 0: any
    config.export.images = 1000  # maximum number of held-out images to verify predictions
    config.export.code_images = 100  # of these, images to compare the codes of every layer
    # Allowed fractions of differing predictions and of codes per layer; one may always differ.
    config.export.max_unequal = 0.001  # integer runtime, compared with the evaluation in float64
    # Other formats have their own float rounding, like the evaluation in float32: 0.001 is the
    # goal, and this bound is only exceeded by broken files.
    config.export.max_unequal_float = 0.005  # compared with the evaluation in float32
    config.export.max_differing_codes = 1e-5  # in float32, due to rounding; none in float64
    return config
