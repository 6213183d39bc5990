"""Every formula as a reader would write it from the papers: the yardstick that benchmarks/losses.py compares with.

No thought is given to time or memory. Shapes: logits (B, C, h, w), features (B, A, h, w), labels (B, H, W) with 255 for
ignored pixels. Every function returns a tuple of scalars, except `label_noise`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = 255
# The customary class weights of the 19 Cityscapes classes (RDD's training file).
CITYSCAPES = [0.8373, 0.9180, 0.8660, 1.0345, 1.0166, 0.9969, 0.9754, 1.0489, 0.8786, 1.0023]
CITYSCAPES += [0.9539, 0.9843, 1.1116, 0.9037, 1.0865, 1.0955, 1.0865, 1.1529, 1.0507]


def on_grid(labels: Tensor, size) -> Tensor:
    """Labels (B, h, w) by nearest resizing."""
    return F.interpolate(labels[:, None].float(), size=tuple(size), mode="nearest")[:, 0].long()


def upsampled(scores: Tensor, size) -> Tensor:
    """Scores at label size."""
    return F.interpolate(scores, size=tuple(size), mode="bilinear", align_corners=True)


def kd(student: Tensor, teacher: Tensor, temperature: float = 1.0):
    """Pixel-wise KL divergence, the mean over pixels."""
    batch, _, height, width = student.shape
    log_student, target = F.log_softmax(student / temperature, 1), F.softmax(teacher / temperature, 1)
    return (temperature**2 * F.kl_div(log_student, target, reduction="sum") / (batch * height * width),)


def channel_divergences(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL divergence (B, C) between the activation maps of each channel."""
    log_student = F.log_softmax(student.flatten(2) / temperature, -1)
    return F.kl_div(log_student, F.softmax(teacher.flatten(2) / temperature, -1), reduction="none").sum(-1)


def cwd(student: Tensor, teacher: Tensor, temperature: float = 4.0):
    """Channel-wise distillation."""
    return (temperature**2 * channel_divergences(student, teacher, temperature).mean(),)


def hwd(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float = 4.0, mu: float = 0.0, beta: float = 0.1):
    """Channel-wise distillation with holistic weights (HWD Eq. 4-8), counts on the grid."""
    labels, (batch, classes) = on_grid(labels, student.shape[-2:]), student.shape[:2]
    with torch.no_grad():
        gap = F.softmax(student.flatten(2) / temperature, -1) - F.softmax(teacher.flatten(2) / temperature, -1)
        divergence = (gap**2).mean(-1)
        for image in range(batch):
            for index in range(classes):
                divergence[image, index] /= (labels[image] == index).sum() + 1
        standard = (divergence - divergence.mean(1, keepdim=True)) / divergence.std(1, keepdim=True) + mu
        weights = classes * F.softmax((1 - beta**standard) / (1 - beta), 1)
    return (temperature**2 * (weights * channel_divergences(student, teacher, temperature)).mean(),)


def skd(student: Tensor, teacher: Tensor, pool: int = 2):
    """Pair-wise affinities n x n after max pooling."""
    grams = []
    for feature in (student, teacher):
        nodes = F.normalize(F.max_pool2d(feature, pool, pool, ceil_mode=True).flatten(2), dim=1)
        grams.append(nodes.transpose(1, 2) @ nodes)
    return (F.mse_loss(*grams),)


def ifvd(student: Tensor, teacher: Tensor, labels: Tensor, num_classes: int):
    """Cosine of each pixel's feature to the prototype of its class, one full-size mask for each class."""
    labels, similarities = on_grid(labels, student.shape[-2:]), []
    for feature in (student, teacher):
        prototypes = feature.clone()
        for index in range(num_classes):
            mask = (labels == index)[:, None].expand_as(feature).float()
            mean = (mask * feature).sum((2, 3), keepdim=True) / (mask.sum((2, 3), keepdim=True) + 1e-6)
            prototypes = (1 - mask) * prototypes + mask * mean
        similarities.append(F.cosine_similarity(feature, prototypes, dim=1))
    return (F.mse_loss(*similarities),)


def attention(feature: Tensor) -> Tensor:
    """Normalised map (B, N) of the mean square over channels."""
    return F.normalize((feature**2).mean(1).flatten(1), dim=1)


def at(student: Tensor, teacher: Tensor):
    """Attention transfer."""
    return (F.mse_loss(attention(student), attention(teacher)),)


def dsd(student_maps: list[Tensor], teacher_maps: list[Tensor], temperature: float = 4.0):
    """Pixel-wise similarity between layers, and category-wise similarity of the last maps (the logits)."""
    residuals = []
    for maps in (student_maps, teacher_maps):
        shallow_to_deep = [attention(one) for one in maps]
        pairs = [(0, 1), (0, 2), (1, 2)]
        residuals.append([F.normalize(shallow_to_deep[m] - shallow_to_deep[n], dim=1) for n, m in pairs])
    pixel = sum(F.mse_loss(s, t) for s, t in zip(*residuals)) / 3
    grams = []
    for logits in (student_maps[-1], teacher_maps[-1]):
        maps = F.softmax(F.avg_pool2d(logits, 2, 2, ceil_mode=True).flatten(2) / temperature, -1)
        grams.append(maps @ maps.transpose(1, 2))
    return pixel, F.mse_loss(*grams)


def fitnet(student: Tensor, teacher: Tensor):
    """Mean squared error of features."""
    return (F.mse_loss(student, teacher),)


def cirkd_batch(student: Tensor, teacher: Tensor, temperature: float = 0.1):
    """Similarities N x N for each pair of images, as distributions over the second image."""
    student, teacher = (F.normalize(x, dim=1).flatten(2).transpose(1, 2) for x in (student, teacher))
    total, batch = 0.0, len(student)
    for one in range(batch):
        for other in range(batch):
            log_student = F.log_softmax(student[one] @ student[other].T / temperature, 1)
            target = F.softmax(teacher[one] @ teacher[other].T / temperature, 1)
            total = total + F.kl_div(log_student, target, reduction="batchmean")
    return (total / batch**2,)


def cirkd_memory(student: Tensor, teacher: Tensor, pixel_keys: Tensor, region_keys: Tensor, temperature: float = 0.1):
    """Similarities M x K of all pixels to the keys of both queues, as distributions over the keys."""
    losses = []
    for keys in (pixel_keys, region_keys):
        log_student = F.log_softmax(student @ keys.T / temperature, 1)
        target = F.softmax(teacher @ keys.T / temperature, 1)
        losses.append(F.kl_div(log_student, target, reduction="batchmean"))
    return tuple(losses)


def maskd(student: Tensor, teacher: Tensor, tokens: Tensor):
    """Masked squared error; masks from the teacher's logits, times the maps of both before squaring."""
    masks = torch.sigmoid(torch.einsum("tc,bchw->bthw", tokens, teacher))
    gap = masks[:, :, None] * student[:, None] - masks[:, :, None] * teacher[:, None]
    return (0.5 * ((gap**2).sum((3, 4)) / (masks.sum((2, 3))[:, :, None] + 1e-5)).mean(),)


def mgd(student: Tensor, teacher: Tensor, generator: torch.nn.Module, mask: Tensor):
    """Squared error of the generated feature: the sum over channels and positions over the batch size."""
    return (F.mse_loss(generator(mask * student), teacher, reduction="sum") / len(student),)


def pearson(x: Tensor, y: Tensor) -> Tensor:
    """Correlation of the rows."""
    x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    return (x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1) + 1e-8)


def dist(student: Tensor, teacher: Tensor):
    """Correlations between the classes of a pixel and between the pixels of a class."""
    student, teacher = (F.softmax(x, 1).permute(0, 2, 3, 1).flatten(0, 2) for x in (student, teacher))
    return (1 - pearson(student, teacher).mean() + 1 - pearson(student.T, teacher.T).mean(),)


def pixel_covariances(covariance: Tensor, labels: Tensor) -> Tensor:
    """Diagonal covariance (..., A) of the class of each pixel, zero where ignored, from a table (C, A)."""
    known = labels != IGNORE
    return covariance[torch.where(known, labels, 0)] * known[..., None]


def fakd_cwd(scores, weight, teacher, labels, covariance, lam: float, temperature: float = 4.0):
    """Augmented CWD: the variance w' Sigma w of each score at each pixel, then one log-sum-exp over the positions."""
    labels, scores = on_grid(labels, scores.shape[-2:]).flatten(1), scores.flatten(2) / temperature
    variance = torch.einsum("ca,bna->bcn", weight**2, pixel_covariances(covariance, labels))
    half = lam * variance / (2 * temperature**2)
    target = F.softmax(teacher.flatten(2) / temperature, -1)
    bound = torch.logsumexp(scores + half, -1, keepdim=True) - (scores - half)
    return (temperature**2 * (target * bound).sum(-1).mean(),)


def fakd_pd(scores, weight, teacher, labels, covariance, lam: float):
    """Augmented PD: for each pixel the C x C score gaps and their variances under its own label's covariance."""
    labels, scores = on_grid(labels, scores.shape[-2:]).flatten(), scores.permute(0, 2, 3, 1).flatten(0, 2)
    gaps = ((weight[None] - weight[:, None]) ** 2).flatten(0, 1)  # (w_k - w_c)^2 as row c * C + k
    classes = len(weight)
    variance = (covariance @ gaps.T).view(-1, classes, classes)
    variance = torch.cat([variance, torch.zeros_like(variance[:1])])[torch.where(labels == IGNORE, classes, labels)]
    target = F.softmax(teacher, 1).permute(0, 2, 3, 1).flatten(0, 2)
    bound = torch.logsumexp(scores[:, None, :] - scores[:, :, None] + 0.5 * lam * variance, -1)
    return ((target * bound).sum(1).mean(),)


def class_moments(feature: Tensor, labels: Tensor, num_classes: int):
    """Mean and biased variance (C, A) of the features of each class, a class at a time; zero for absent classes."""
    labels, points = on_grid(labels, feature.shape[-2:]).flatten(), feature.permute(0, 2, 3, 1).flatten(0, 2)
    means, variances = (torch.zeros(num_classes, points.shape[1]) for _ in range(2))
    for index in range(num_classes):
        members = points[labels == index]
        if len(members):
            means[index], variances[index] = members.mean(0), members.var(0, unbiased=False)
    return means, variances


def tfe(student, student_aux, teacher, teacher_aux, labels, official: bool = False, aux_weight: float = 0.4):
    """RDD's first stage: the cross-entropy of both heads, weighted by exp(-KL) between the teacher's heads."""
    first, second = (teacher_aux, teacher) if official else (teacher, teacher_aux)
    divergence = F.kl_div(F.log_softmax(second, 1), F.softmax(first, 1), reduction="none").sum(1, keepdim=True)
    easy = upsampled(torch.exp(-divergence), labels.shape[-2:])[:, 0]
    losses = [cross_entropies(logits, labels) for logits in (student, student_aux)]
    return (easy * losses[0]).mean(), aux_weight * (easy * losses[1]).mean()


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy (B, H, W) at label size, 0 where ignored."""
    return F.cross_entropy(upsampled(logits, labels.shape[-2:]), labels, ignore_index=IGNORE, reduction="none")


def tse(student, student_aux, teacher, teacher_aux, labels, official: bool = False, aux_weight: float = 0.4):
    """RDD's second stage: the cross-entropy on the pixels that exactly one of student and teacher finds hard."""
    select = selected_official if official else selected
    weights = select(student, teacher, labels)
    aux_weights = select(student_aux, teacher_aux, labels) if official else weights
    losses = []
    for logits, weight in ((student, weights), (student_aux, aux_weights)):
        total = (weight * cross_entropies(logits, labels)).sum()
        losses.append(total / (weight.sum() if official else labels.numel()))
    return losses[0], aux_weight * losses[1]


@torch.no_grad()
def selected(student: Tensor, teacher: Tensor, labels: Tensor, threshold: float = 0.7) -> Tensor:
    """The paper's mask (B, H, W): the largest probability at most the threshold for exactly one network."""
    probabilities = [F.softmax(upsampled(x, labels.shape[-2:]), 1) for x in (student, teacher)]
    hard = [p.max(1).values <= threshold for p in probabilities]
    return ((hard[0] ^ hard[1]) & (labels != IGNORE)).float()


@torch.no_grad()
def selected_official(student: Tensor, teacher: Tensor, labels: Tensor, threshold: float = 0.7) -> Tensor:
    """The code's mask times class weights: true-class probability, and a least number of pixels for each network."""
    known, hard = labels != IGNORE, []
    true = torch.where(known, labels, 0)
    for logits in (student, teacher):
        sure = F.softmax(upsampled(logits, labels.shape[-2:]), 1).gather(1, true[:, None])[:, 0]
        sure[~known] = 1
        least = sure.flatten().sort().values[round(100_000 / (4 * 512 * 1024) * labels.numel()) - 1]
        hard.append(sure <= max(threshold, float(least)))
    mask = ((hard[0] ^ hard[1]) & known).float()
    return mask * torch.tensor(CITYSCAPES)[true] if student.shape[1] == len(CITYSCAPES) else mask


def label_noise(labels: Tensor, num_classes: int, generator: torch.Generator, alpha: float = 0.01) -> Tensor:
    """LAD's label channel (B, 1, H, W): one-hot planes times random codes of image and class, plus pixel noise."""
    codes = torch.randn(len(labels), num_classes, generator=generator)
    noise = torch.randn(labels.shape, generator=generator)
    channel = torch.zeros(labels.shape)
    for index in range(num_classes):
        channel = channel + codes[:, index, None, None] * (labels == index)
    return (channel + alpha * noise)[:, None]
