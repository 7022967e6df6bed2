"""Every config key: meaning, range, source. Names that FastReID has keep FastReID's meaning.

A comment stands above each key. "Paper" is the MLT/GLT recipe (Zheng et al., CVPR 2021) unless another is named.
"""

from __future__ import annotations

from yacs.config import CfgNode as YacsNode

from mlt.config.config import CfgNode


def get_cfg() -> CfgNode:
    """A new tree of all keys with their defaults."""
    cfg = CfgNode()
    _add_model(cfg)
    _add_input(cfg)
    _add_data(cfg)
    _add_solver(cfg)
    _add_test(cfg)
    # Where checkpoints, config.yaml, log.txt, metrics.json and Stage I (pretrain/) are written.
    cfg.OUTPUT_DIR = "logs/run"
    # Seeds every random choice: weights, sampling, augmentation, K-Means. Integer >= 0.
    cfg.SEED = 0
    # Lets cuDNN pick its fastest kernels; they may differ from run to run. FastReID's key.
    cfg.CUDNN_BENCHMARK = False
    _add_mlt(cfg)
    return cfg


def _add_model(cfg: YacsNode) -> None:
    CN = type(cfg)
    cfg.MODEL = CN()
    # "cuda" or "cpu". With "cpu", --num-gpus N starts N gloo processes.
    cfg.MODEL.DEVICE = "cuda"
    # A name of META_ARCHS: "Baseline" (supervised; Stage I), "MixtureLabelTransport" (MLT), "MutualMeanTeaching"
    # (MMT), "UncertaintyGuided" (UNRN), "PseudoLabelModel" (one net with what is switched on: strong baseline, SpCL,
    # ClusterContrast).
    cfg.MODEL.META_ARCHITECTURE = "Baseline"
    # Checkpoint to start from: ours, a torchvision or IBN-a ResNet file, or one of MMT, SpCL, ClusterContrast,
    # OpenUnReID, UDAStrongBaseline or FastReID, whose stem and pooling are then taken over. --eval-only requires it.
    cfg.MODEL.WEIGHTS = ""
    # Which of a file's two batch norms a model with single ones takes: "target" or "source".
    cfg.MODEL.WEIGHTS_DOMAIN = "target"
    # Mean and standard deviation of R, G, B in 0..255 units (ImageNet); the model normalises, loaders give uint8.
    cfg.MODEL.PIXEL_MEAN = [0.485 * 255, 0.456 * 255, 0.406 * 255]
    cfg.MODEL.PIXEL_STD = [0.229 * 255, 0.224 * 255, 0.225 * 255]

    # Backend of torch.compile for the backbones: "" = off, "inductor", ... What it cannot compile runs without it, with
    # a warning. Rounds differently.
    cfg.MODEL.COMPILE = ""

    cfg.MODEL.BACKBONE = CN()
    # A name of BACKBONES: "ResNet" or "TwoDepthResNet" (UNRN).
    cfg.MODEL.BACKBONE.NAME = "ResNet"
    # ResNet depth: "10x", "18x", "34x", "50x" or "101x" (FastReID's spelling).
    cfg.MODEL.BACKBONE.DEPTH = "50x"
    # Channels of the stem and of layer1's blocks; 64 is the published network. Integer >= 8.
    cfg.MODEL.BACKBONE.WIDTH = 64
    # Stride of layer4: 1 keeps a finer map (all re-ID papers here), 2 is the ImageNet network.
    cfg.MODEL.BACKBONE.LAST_STRIDE = 1
    # Batch norm: "BN", or "SyncBN" for statistics over all processes.
    cfg.MODEL.BACKBONE.NORM = "BN"
    # Instance-batch norm "a" in layer1-3 (Pan et al., ECCV 2018).
    cfg.MODEL.BACKBONE.WITH_IBN = False
    # Non-local blocks after the last 2 blocks of layer2 and the last 3 of layer3 (UDAStrongBaseline "sbs").
    cfg.MODEL.BACKBONE.WITH_NL = False
    # Inner channels of a non-local block; released weights have 1, the block's paper C/2. Integer >= 1.
    cfg.MODEL.BACKBONE.NL_CHANNELS = 1
    # ReLU after the stem's batch norm. ImageNet weights expect it; MMT and UDAStrongBaseline train without.
    cfg.MODEL.BACKBONE.STEM_RELU = True
    # Stem max-pool with padding 0 and ceil mode (FastReID) in place of padding 1 (torchvision).
    cfg.MODEL.BACKBONE.STEM_CEIL_POOL = False
    # Start from ImageNet weights: PRETRAIN_PATH if set, else torchvision's weights for depths from 18.
    cfg.MODEL.BACKBONE.PRETRAIN = False
    # Local file with ImageNet weights (torchvision or IBN-a state dict).
    cfg.MODEL.BACKBONE.PRETRAIN_PATH = ""

    # Two batch norms for each one: source rows use the first, target rows (and evaluation) the second.
    cfg.MODEL.DSBN = False
    # Images per batch-norm group: training statistics over consecutive groups of this size, as 4 GPUs with
    # 16 images each see them. 0 = the whole batch of the process.
    cfg.MODEL.BN_GROUP = 0

    cfg.MODEL.HEADS = CN()
    # A name of HEADS: "EmbeddingHead" (one classifier), "MixtureLabelHead" (one for each clustering) or
    # "NeckHead" (none: the memory classifies); "TwoDepthEmbeddingHead" and "TwoDepthMixtureHead" on a TwoDepthResNet.
    cfg.MODEL.HEADS.NAME = "EmbeddingHead"
    # Source identities; 0 = counted in DATASETS.NAMES.
    cfg.MODEL.HEADS.NUM_CLASSES = 0
    # "GeneralizedMeanPoolingP" (GeM with one learnable p, starts at 3) or "GlobalAvgPool".
    cfg.MODEL.HEADS.POOL_LAYER = "GeneralizedMeanPoolingP"
    # "Linear" (no bias, on the BNNeck output) or "CosSoftmax" (SCALE times the cosine).
    cfg.MODEL.HEADS.CLS_LAYER = "Linear"
    # Factor of CosSoftmax; > 0.
    cfg.MODEL.HEADS.SCALE = 16.0
    # Dropout before the classifiers and the memory projection; 0 <= p < 1. Paper 0, its released script 0.2.
    cfg.MODEL.HEADS.DROPOUT = 0.0

    cfg.MODEL.LOSSES = CN()
    # Names of LOSSES whose values are summed: "CrossEntropyLoss", "TripletLoss"; between the two nets of
    # MutualMeanTeaching also "SoftCrossEntropyLoss", "SoftTripletLoss"; () where the memory gives the only loss.
    cfg.MODEL.LOSSES.NAME = ("CrossEntropyLoss", "TripletLoss")
    cfg.MODEL.LOSSES.CE = CN()
    # Label smoothing; 0 <= epsilon < 1.
    cfg.MODEL.LOSSES.CE.EPSILON = 0.1
    # Weight of the identification loss.
    cfg.MODEL.LOSSES.CE.SCALE = 1.0
    cfg.MODEL.LOSSES.TRI = CN()
    # 0 = soft margin, log(1 + exp(dp - dn)); > 0 = hinge.
    cfg.MODEL.LOSSES.TRI.MARGIN = 0.0
    # Unit-norm the features before distances are taken.
    cfg.MODEL.LOSSES.TRI.NORM_FEAT = False
    # Weight of the triplet loss.
    cfg.MODEL.LOSSES.TRI.SCALE = 1.0
    cfg.MODEL.LOSSES.SOFT_CE = CN()
    # Weight of the cross entropy with the other net's teacher (MMT).
    cfg.MODEL.LOSSES.SOFT_CE.SCALE = 0.5
    cfg.MODEL.LOSSES.SOFT_TRI = CN()
    # As TRI.NORM_FEAT, for the soft triplet loss.
    cfg.MODEL.LOSSES.SOFT_TRI.NORM_FEAT = False
    # Weight of the triplet loss against the other net's teacher (MMT).
    cfg.MODEL.LOSSES.SOFT_TRI.SCALE = 0.8
    cfg.MODEL.LOSSES.UNCERTAINTY = CN()
    # Weight of the mean uncertainty, which keeps the weights of the rows up (UNRN).
    cfg.MODEL.LOSSES.UNCERTAINTY.SCALE = 1.0


def _add_input(cfg: YacsNode) -> None:
    CN = type(cfg)
    cfg.INPUT = CN()
    # Height and width of a training image.
    cfg.INPUT.SIZE_TRAIN = [256, 128]
    # Height and width of a test image.
    cfg.INPUT.SIZE_TEST = [256, 128]
    cfg.INPUT.FLIP = CN()
    # Horizontal flip.
    cfg.INPUT.FLIP.ENABLED = True
    # Probability of a flip, 0..1.
    cfg.INPUT.FLIP.PROB = 0.5
    cfg.INPUT.PADDING = CN()
    # Pad with black and crop back at a random place.
    cfg.INPUT.PADDING.ENABLED = True
    # Pixels added on each side.
    cfg.INPUT.PADDING.SIZE = 10
    cfg.INPUT.REA = CN()
    # Random erasing (Zhong et al., AAAI 2020), last of all; area 0.02-0.4, aspect 0.3-3.33. Stage I trains without.
    cfg.INPUT.REA.ENABLED = False
    # Probability of erasing, 0..1.
    cfg.INPUT.REA.PROB = 0.5
    # Fill in 0..255 RGB; MMT fills 0.485, 0.456, 0.406 *after* normalising, which is this colour before it. Released
    # GLT fills 0.596, 0.558, 0.497, which is 158, 148, 132.
    cfg.INPUT.REA.VALUE = [152, 142, 127]
    cfg.INPUT.CJ = CN()
    # Colour jitter.
    cfg.INPUT.CJ.ENABLED = False
    # Probability of a jitter, 0..1.
    cfg.INPUT.CJ.PROB = 0.5
    # Strengths as in torchvision's ColorJitter.
    cfg.INPUT.CJ.BRIGHTNESS = 0.15
    cfg.INPUT.CJ.CONTRAST = 0.15
    cfg.INPUT.CJ.SATURATION = 0.1
    cfg.INPUT.CJ.HUE = 0.1


def _add_data(cfg: YacsNode) -> None:
    CN = type(cfg)
    cfg.DATASETS = CN()
    # Labelled source sets: "Market1501", "Name@PATH", "csv@FILE". () = no source.
    cfg.DATASETS.NAMES = ("Market1501",)
    # Sets to evaluate on; the first chooses "best" by FastReID's "metric", (mAP + Rank-1) / 2. () = no evaluation.
    cfg.DATASETS.TESTS = ("Market1501",)
    # Folder of the sets; "" = the environment's FASTREID_DATASETS, else "datasets".
    cfg.DATASETS.ROOT = ""
    # Regular expression with one group that finds the camera in a Folder@ path; "" = first sub-folder.
    cfg.DATASETS.CAMERA_REGEX = ""

    cfg.DATALOADER = CN()
    # Images per identity in a batch (K of P x K).
    cfg.DATALOADER.NUM_INSTANCE = 4
    # An identity of one image fills its NUM_INSTANCE rows with copies; False: it has one row (SpCL).
    cfg.DATALOADER.PAD_SINGLETONS = True
    # Worker processes; 0 = load in the training process. Batches are the same whatever the number.
    cfg.DATALOADER.NUM_WORKERS = 8
    # A broken image: "error" stops and names it, "skip" replaces it by another of its batch and warns once.
    cfg.DATALOADER.ON_BAD_IMAGE = "error"
    # Decoded images are kept, each is decoded once, if the training images of both domains together take at most so
    # many GB (10^9 bytes; 1 GB is 10,000 images of 256x128); so are those of each test set that still fits. Else none
    # are, and the log says so. 0 = none.
    cfg.DATALOADER.CACHE_GB = 8.0
    # Folder of files with decoded images, which all processes of a machine share and later runs find again. On a local
    # disk, best in its memory, such as /dev/shm. A changed data set gets a new file; files that no run uses may be
    # deleted. "" = memory, which a run's processes on one machine share.
    cfg.DATALOADER.CACHE_DIR = ""
    # Where kept training images are read from: "host", or "device": MODEL.DEVICE, once all are decoded (needs
    # AUGMENT_ON device). A GPU then holds them all.
    cfg.DATALOADER.CACHE_ON = "host"
    # Random changes of training images: "device" (whole batches on MODEL.DEVICE) or "worker" (each image where it is
    # loaded, by torchvision; other draws of the same distribution). With "device", kept images are all decoded before
    # the first epoch, after which no workers are needed.
    cfg.DATALOADER.AUGMENT_ON = "device"


def _add_solver(cfg: YacsNode) -> None:
    CN = type(cfg)
    cfg.SOLVER = CN()
    # Epochs of the whole run.
    cfg.SOLVER.MAX_EPOCH = 80
    # Images per step over all processes, of each domain; a multiple of NUM_INSTANCE times the processes.
    cfg.SOLVER.IMS_PER_BATCH = 64
    # Parts of a batch that are computed one after the other, their gradients averaged, where a whole batch needs too
    # much memory. Batch norm and mining see a part. A divisor of the identities that a process has in a batch.
    cfg.SOLVER.ACCUMULATION = 1
    # Any optimizer of torch.optim.
    cfg.SOLVER.OPT = "Adam"
    # Learning rate at full batch.
    cfg.SOLVER.BASE_LR = 3.5e-4
    # Factor of the learning rate for heads.*.
    cfg.SOLVER.HEADS_LR_FACTOR = 1.0
    # Factor of the learning rate for biases.
    cfg.SOLVER.BIAS_LR_FACTOR = 1.0
    # Momentum, SGD only.
    cfg.SOLVER.MOMENTUM = 0.9
    # Weight decay of weights, norm layers and biases.
    cfg.SOLVER.WEIGHT_DECAY = 5e-4
    cfg.SOLVER.WEIGHT_DECAY_NORM = 5e-4
    cfg.SOLVER.WEIGHT_DECAY_BIAS = 5e-4
    # "MultiStepLR" or "CosineAnnealingLR", stepped per epoch after warm-up.
    cfg.SOLVER.SCHED = "MultiStepLR"
    # Epochs at which MultiStepLR multiplies by GAMMA; [] = a constant rate.
    cfg.SOLVER.STEPS = [40, 70]
    cfg.SOLVER.GAMMA = 0.1
    # Last learning rate of the cosine.
    cfg.SOLVER.ETA_MIN_LR = 0.0
    # Iterations of linear warm-up, from WARMUP_FACTOR to 1. The papers step it per epoch (10 epochs, from 0.01).
    cfg.SOLVER.WARMUP_ITERS = 0
    cfg.SOLVER.WARMUP_FACTOR = 0.01
    cfg.SOLVER.AMP = CN()
    # Mixed precision.
    cfg.SOLVER.AMP.ENABLED = False
    # "bfloat16", or "float16" (with loss scaling).
    cfg.SOLVER.AMP.DTYPE = "bfloat16"
    cfg.SOLVER.CLIP_GRADIENTS = CN()
    # Clip the gradient's norm.
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = False
    # Largest norm.
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 5.0
    # Epochs between numbered checkpoints; 0 = only the last one, which is rewritten after every epoch.
    cfg.SOLVER.CHECKPOINT_PERIOD = 0


def _add_test(cfg: YacsNode) -> None:
    CN = type(cfg)
    cfg.TEST = CN()
    # Epochs between evaluations; 0 = only after the last.
    cfg.TEST.EVAL_PERIOD = 20
    # Images per step of one process at evaluation and feature extraction.
    cfg.TEST.IMS_PER_BATCH = 128
    # FLIP, AQE and RERANK have FastReID's keys.
    cfg.TEST.FLIP = CN()
    # Features are the unit mean of an image's and its mirror image's.
    cfg.TEST.FLIP.ENABLED = False
    cfg.TEST.AQE = CN()
    # Rows "... expanded" beside the plain ones: each feature of query and gallery becomes the mean of its nearest ones.
    cfg.TEST.AQE.ENABLED = False
    # They are weighted by cosine ** ALPHA, >= 0.
    cfg.TEST.AQE.ALPHA = 3.0
    # Expansions one after another, >= 1.
    cfg.TEST.AQE.QE_TIME = 1
    # Rows in the mean, the feature itself included, >= 1.
    cfg.TEST.AQE.QE_K = 5
    cfg.TEST.RERANK = CN()
    # Rows "... re-ranked" by k-reciprocal neighbours (Zhong et al., CVPR 2017), of what is expanded if AQE is on, too.
    # Takes O((Q + G)^2 D) time; Q x G is never held.
    cfg.TEST.RERANK.ENABLED = False
    # Neighbours in the full window, >= 1.
    cfg.TEST.RERANK.K1 = 20
    # Rows in the mean of the query expansion, >= 1.
    cfg.TEST.RERANK.K2 = 6
    # Share of the plain distance, in [0, 1].
    cfg.TEST.RERANK.LAMBDA = 0.3


def _add_mlt(cfg: YacsNode) -> None:
    _add_mlt_model(cfg)
    _add_mlt_labels(cfg)
    CN = type(cfg)
    # Unlabelled target sets: adapted to in Stage II, their BN statistics seen in Stage I.
    cfg.DATASETS.TARGETS = ()
    # Iterations of an epoch; 0 = as many as the larger training set fills.
    cfg.SOLVER.ITERS_PER_EPOCH = 0
    # Epochs after which the optimizer's moments are zeroed; 0 = never. Released GLT and MMT: 1.
    cfg.SOLVER.RESET_PERIOD = 0
    # Subtract each camera's mean feature at test time (camera ids only); plain numbers are always shown as well.
    cfg.TEST.CAMERA_CENTERING = False
    # --eval-only: first re-estimate BN statistics on the training images of DATASETS.TARGETS (AdaBN).
    cfg.TEST.ADAPT_BN = False

    cfg.PRETRAIN = CN()
    # Stage I config; Stage I runs by itself when PRETRAIN.WEIGHTS is empty. "" = there is no Stage I.
    # Stage I takes from Stage II, and so from the command line, what must be alike in both: MODEL.{DEVICE, BACKBONE,
    # BN_GROUP, PIXEL_*}, MODEL.HEADS.POOL_LAYER, INPUT.SIZE_*, DATASETS, DATALOADER and TEST without EVAL_PERIOD. All
    # else is this file's, also SOLVER.AMP: a Stage II that is tried again without it finds its Stage I. SEED is one of
    # PRETRAIN.SEEDS. The log names the keys of the command line that do not reach Stage I.
    cfg.PRETRAIN.CONFIG_FILE = ""
    # Stage I checkpoints, one for each net that is trained (MLT: one); empty = those in OUTPUT_DIR/pretrain, trained
    # when they are missing, or when the recipe or the images have changed since.
    cfg.PRETRAIN.WEIGHTS = []
    # Seeds of Stage I, one for each net that is trained. MLT: one; MMT: (1, 2).
    cfg.PRETRAIN.SEEDS = (0,)
    # Stage I: also forward a target batch in every step so that BN statistics mix both domains (paper).
    cfg.PRETRAIN.TARGET_STATISTICS = True
    # Stage II starts with BN statistics re-estimated on the target images (AdaBN, Li et al. 2016). Paper: no.
    cfg.PRETRAIN.ADAPT_BN = False


def _add_mlt_model(cfg: YacsNode) -> None:
    CN = type(cfg)
    # Rows of each classifier; 0 = exactly NUM_CLUSTERS. Clusterings with a free number need it set.
    cfg.MODEL.HEADS.MAX_CLUSTERS = 0
    # Classifier rows after a clustering: "normal" N(0, 0.001^2) (paper) or "centroid" (unit cluster means, MMT).
    cfg.MODEL.HEADS.INIT = "normal"
    # The classifiers also tell source identities apart, and all losses are on both domains (MMT+, strong baseline).
    cfg.MODEL.HEADS.WITH_SOURCE = False

    cfg.MEAN_TEACHER = CN()
    # Keep an exponential moving average of the student; it labels, and it is the model that is evaluated.
    cfg.MEAN_TEACHER.ENABLED = True
    # Largest momentum; 0 <= alpha < 1.
    cfg.MEAN_TEACHER.MOMENTUM = 0.999
    # Ramp: alpha_t = min(1 - 1/(t+1), MOMENTUM), so the first step copies the student.
    cfg.MEAN_TEACHER.RAMP = True
    # Teacher's BN statistics: "forward" (its own, by forwarding every batch: paper), "ema" (average of the
    # student's) or "copy" (the student's).
    cfg.MEAN_TEACHER.BN_BUFFERS = "forward"

    cfg.MEMORY = CN()
    # A name of MEMORIES: "MemoryBank" (MLT), "HybridMemory" (SpCL), "ClusterMemory" (ClusterContrast); "" for none.
    cfg.MEMORY.NAME = "MemoryBank"
    # Target features kept, first in first out.
    cfg.MEMORY.QUEUE_SIZE = 8192
    # What is stored and compared: "projection" (h of the memory head) or "embedding" (v).
    cfg.MEMORY.FEATURE = "projection"
    # Circle loss: margin in (0, 1), scale gamma > 0 (Sun et al., CVPR 2020).
    cfg.MEMORY.MARGIN = 0.25
    cfg.MEMORY.GAMMA = 128.0
    # The circle losses are divided by this; 18 in the released code.
    cfg.MEMORY.DIVISOR = 18.0
    # Share of the old vector in the update of a prototype, cluster or image; 0..1. MLT, SpCL: 0.2.
    cfg.MEMORY.PROTOTYPE_MOMENTUM = 0.2
    # Weights of MemoryBank's two losses: target queue, source prototypes.
    cfg.MEMORY.INSTANCE_WEIGHT = 1.0
    cfg.MEMORY.PROTOTYPE_WEIGHT = 1.0
    # HybridMemory, ClusterMemory: temperature tau > 0.
    cfg.MEMORY.TEMPERATURE = 0.05
    # ClusterMemory: only the row of a batch that is least similar to its cluster moves it.
    cfg.MEMORY.HARD = False


def _add_mlt_labels(cfg: YacsNode) -> None:
    CN = type(cfg)
    cfg.PSEUDO_LABELS = CN()
    # A name of CLUSTERINGS: "kmeans" (the mixture), "dbscan" (on Jaccard distances), "self_paced" (SpCL).
    cfg.PSEUDO_LABELS.METHOD = "kmeans"
    # Source images in every batch beside the pseudo-labelled ones; False: target images only (MMT).
    cfg.PSEUDO_LABELS.WITH_SOURCE = True
    # Clusters of each group: the mixture. Paper: 600, 700, 800.
    cfg.PSEUDO_LABELS.NUM_CLUSTERS = (600, 700, 800)
    # The group that drives sampler, triplets and memory; counted from 0. Paper: 1.
    cfg.PSEUDO_LABELS.GROUP = 1
    # Clusterings in the run, as far as they begin before MAX_EPOCH; 0 = one every PERIOD epochs to the end. Paper: 11.
    cfg.PSEUDO_LABELS.ROUNDS = 11
    # Epochs from one clustering to the next; the last round takes what is left of MAX_EPOCH.
    cfg.PSEUDO_LABELS.PERIOD = 39
    # "restart": each round starts again from Stage I (paper); "warm": goes on with the nets as they are.
    cfg.PSEUDO_LABELS.SCHEDULE = "restart"
    # What is clustered: "network" (an extraction pass) or "memory" (the memory's rows, SpCL).
    cfg.PSEUDO_LABELS.FEATURES = "network"
    # Features of unit length; False: as the net that labels gives them (MMT's K-Means on the mean of two unit rows).
    cfg.PSEUDO_LABELS.UNIT_NORM = True
    # Subtract each camera's mean feature before clustering and transport (camera ids only). Paper: no.
    cfg.PSEUDO_LABELS.CAMERA_CENTERING = False
    # K-Means: restarts with new seeds, of which the best is kept, and largest number of iterations.
    cfg.PSEUDO_LABELS.NUM_RESTARTS = 10
    cfg.PSEUDO_LABELS.MAX_ITER = 300
    # DBSCAN: largest Jaccard distance of neighbours; 0 = the mean of the smallest EPS_SHARE of the distances at the
    # first clustering (MMT). Papers: 0.6.
    cfg.PSEUDO_LABELS.EPS = 0.6
    cfg.PSEUDO_LABELS.EPS_SHARE = 0.0016
    # DBSCAN: neighbours, the image itself included, that make a core point. Papers: 4.
    cfg.PSEUDO_LABELS.MIN_SAMPLES = 4
    # Jaccard distance: neighbours of the reciprocal sets, and rows of the query expansion. Papers: 30 and 6; MMT 20.
    cfg.PSEUDO_LABELS.K1 = 30
    cfg.PSEUDO_LABELS.K2 = 6
    # "clustering" (k1 neighbours with the image itself) or "reranking" (k1 + 1, distances over the largest one; MMT).
    cfg.PSEUDO_LABELS.WINDOW = "clustering"
    # "self_paced": eps of the tighter and the looser criterion lie this far from EPS; paper (SpCL) 0.02.
    cfg.PSEUDO_LABELS.EPS_GAP = 0.02
    # "self_paced": share of the first clusters, most independent first, that sets the threshold; paper 0.9.
    cfg.PSEUDO_LABELS.INDEPENDENT_SHARE = 0.9

    cfg.LABEL_TRANSPORT = CN()
    # Re-label by optimal transport between epochs.
    cfg.LABEL_TRANSPORT.ENABLED = True
    # Epochs between transports; >= 1.
    cfg.LABEL_TRANSPORT.PERIOD = 1
    # Sharpness lambda > 0: the plan is close to softmax(logits)^lambda with equal class sizes.
    cfg.LABEL_TRANSPORT.LAMBDA = 25.0
    # Logits are classifier times "normalized" embedding v (released code for several groups) or "raw" embedding b.
    cfg.LABEL_TRANSPORT.FEATURE = "normalized"
    # Stop when the summed relative change of the scaling falls to this; > 0.
    cfg.LABEL_TRANSPORT.TOLERANCE = 1e-2
    # Largest number of Sinkhorn iterations.
    cfg.LABEL_TRANSPORT.MAX_ITER = 1000
