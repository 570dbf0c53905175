"""Every bound of the tests, with its reason."""

# Cosines of unit vectors of up to 1024 float32 entries, two ways of summing them: a few ulp of 1 (methods 3.9, 3).
DISTANCE_FP32 = 1e-6
# (2 - 2c) / P of a map with itself: c is 1 to 2 ulp (2.4e-7), P is at least 64.
SAME_MAP_DISTANCE = 1e-8
# RTK with AFD's switches runs AFD's operations in another order of sums (methods 3.4).
AFD_EQUIVALENCE = 1e-6
# A float32 loss against its float64 form in NumPy, relative: sums of ~1e4 terms.
LOSS_FP32 = 1e-5
# Logits of a network whose BatchNorms are folded, relative to their range: rounding of ~50 layers.
FOLDED_LOGITS = 1e-4
# Gradients of one loss by two orders of float32 operations, relative to the largest: cancelling sums lose ~2 digits.
GRADIENT_FP32 = 1e-5

# ONNX against torch, float32: the same products summed in another order; 3e-7 of the logit range is seen on resnet8.
ONNX_ERROR_TO_RANGE = 2e-6
# Two float32 orders of sums in networks up to 53 convolutions deep: float32 torch itself is 4e-6 of the range from float64 on MobileNetV1.
DEEP_ERROR_TO_RANGE = 2e-5
# u8s8 against its float graph on an easy toy: 43 dB seen; the project's own bound is 25.
TOY_INT8_SQNR_DB = 35.0
# Weights alone in int8, one scale a channel, in a toy of 4 small layers: 44 dB seen; 8 bits of a uniform value are 50.
WEIGHTS_INT8_SQNR_DB = 38.0
# Published channel statistics are rounded to 4 decimals, and a published deviation may be another estimator.
PUBLISHED_STATISTICS = 1e-3
# Compiled against eager after three steps of resnet8 under RTK: fused kernels round differently, and training amplifies it.
COMPILED_LOSS = 2e-4  # relative, of the epoch's mean loss terms; 1.4e-5 seen
COMPILED_WEIGHTS = (
    3e-2  # largest difference of a weight to the largest weight of its tensor; 9e-3 seen (BatchNorm biases, from 0)
)
# Levels of a byte: two fixed-point forms of the same interpolation round differently.
BYTE_ROUNDING = 1
# A cached teacher against a live one on the same views, after three steps of resnet8: its taps are rounded to float16
# (5e-4 of a value), its logits are not. Training amplifies the rounding, some 40 times in three more steps.
CACHED_LOSS = 5e-4  # relative, of the epoch's mean loss terms; 9e-5 seen
CACHED_WEIGHTS = 5e-2  # distance of the two, of the way that training moved them; 1e-2 seen
# Weights after 20 steps of two processes against one that runs the halves in turn: float32 sums in another order.
PROCESSES_WEIGHTS = 1e-5  # 7e-7 seen; weights move by 0.02 to 0.06
# Pillow rounds the grey image, cuts the fraction of the blend off, and works in integers between.
LUMA_ROUNDING = 2  # levels of a byte
# Share of pixels whose source lies on the border of two, where two float32 forms of one affine map round either way.
AFFINE_TIES = 0.01
# Orthonormal rows or columns in float32 after 100 steps: the bound of methods 8.7.
ORTHOGONAL_FP32 = 1e-5
# abar of DiffKD's schedule against figures of five or six digits.
SCHEDULE_FP32 = 1e-5
# Five DDIM steps undone with the true noise: each divides a rounding by sqrt(abar_400) = 0.44 at most.
DENOISED_FP32 = 1e-4
# Student's t: sums of positive terms, then 1 - sum; SciPy's own error is of this size, too.
STUDENT_T = 1e-12
# A network that rounds as its int8 file does against that file: they part by one step where a sum falls on the border of two
# steps, in float here and in integers there, as two modes of one runtime do; depth amplifies that.
QAT_NEARER_DB = 6.0  # than the float network is to the file; 7.5 (ShuffleNetV2) to 22 (resnet8) seen
QAT_INT8_SQNR_DB = 50.0  # of a trained resnet8; 58 seen, 44 with biases that are not rounded
# Own error of a tensor of the toy chain in u8s8, on true inputs: 36.6 dB at the least; below 18 it is a fault.
TOY_OWN_INT8_DB = 30.0
# What a calibrated scale of the toy loses to that of the tensor's own range on other images: 0.9 dB at the most; one four times
# off loses 12.9 and more, and above 8 it is a fault.
TOY_LOST_DB = 4.0
# Own error of a transposed kernel or a missing ReLU: up to 7.4 dB seen; float32 rounding leaves 115 and more.
MUTATED_OWN_DB = 20.0
# Mean KL over 300 images in float64, two ways of computing a softmax: a few hundred roundings of 1e-16, cancelling.
KL_FLOAT64 = 1e-9
# 2,000 simulated chains at a true drop equal to the budget: 5 % may pass, plus two standard errors.
FALSE_PASSES = 0.06
# Of 2,000 simulated chains that lose nothing: what is promised. Budgets are taken from 82 % on, two standard errors more.
GOOD_PASSES = 0.80
# Limits of a Poisson count against SciPy's gamma quantile, relative: logs of factorials up to 20,000! lose 9 digits.
POISSON_LIMIT = 1e-8
# Six small random layers of odd kinds in int8, images of noise: 27 to 40 dB seen; a missed or wrong range gives less than 10.
ODD_INT8_SQNR_DB = 20.0
# Squared error of a range that was searched on a histogram in steps of 1 %, to the best of a finer grid on the values.
SEARCH_ERROR = 1.05
# Of the largest shift of a channel's mean, what is left when it is taken out of the bias: rounding of the bias, 1 % seen.
SHIFT_LEFT = 0.05
# Equalization multiplies and divides float32 weights by the same factors: a few ulp of each product; 1e-6 seen.
EQUALIZED_ERROR_TO_RANGE = 1e-5
# A channel's largest weights before and behind it, after the rounds: equal but for what the last round still moves.
RANGES_BALANCED = 1e-2
# Spread of a taught toy's logits from image to image / their range: 0.14 to 0.28 seen; where all are alike any two files agree.
TELLING_SPREAD = 0.05
# A linear layer of 64 float32 inputs, summed by NumPy in batches of another size: a few ulp of logits up to about 100.
LINEAR_FP32 = 1e-4
# trtexec writes answers with six digits.
TRTEXEC_ANSWERS = 2e-5
# A pixel of 64 rounded by one step of 255 moves a digit's logit by about 0.01; a wrong crop or filter moves it by 1 and more.
RUNNER_PROBABILITY = 0.02

# ONNX Runtime 1.27 and 1.31, aarch64 against x86: QLinearAdd sums in float32 in another order, and a sum on the border of two steps
# takes the other one; the part of its outputs that do: 0.1 % seen on a resnet8 of digits.
QLINEAR_ADD_OTHER_STEPS = 0.02
# What that does to the logits of whole networks: 2.6e-3 of their range seen on a resnet8 of digits, 7.9e-3 on a resnet20 of
# CIFAR-10; another architecture's kernels at fault give 0.1. No answer of 359 and of 10,000 images was another.
INT8_OTHER_PROCESSOR_TO_RANGE = 0.02
OTHER_ANSWERS = 0.003  # part of the images
# LiteRT 2.3, the same: XNNPACK's and the reference kernels gave every logit of 359 images to the last bit. Its own fast ones
# differ on 266 of them (which operator was not looked into): two steps of the logits' scale at most, 8e-3 of their range.
LITERT_OTHER_PROCESSOR_TO_RANGE = {"xnnpack": 0.0, "builtin": INT8_OTHER_PROCESSOR_TO_RANGE, "reference": 0.0}
