"""What a training step costs, and what the speed choices bring: medians in ms on one thread, ratios within one run.

Run with ``make bench``. Three questions: resizing as matrix products or by F.interpolate; channels_last or not; a cohort
of students that shares the teacher's pass or each student alone.
"""

import statistics
import time

import torch
import torch.nn.functional as F

from segkd.config import RunConfig
from segkd.prediction import resize_scores
from segkd.study.profiles import get_profile
from segkd.train.teacher import Teacher
from segkd.train.trainee import Trainee, build_network

REPEATS = 9


def median_ms(work) -> float:
    """Median wall time of ``work`` in ms after one warm-up call."""
    work()
    times = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(times)


def resizing(size: tuple[int, int]) -> None:
    """Forward and backward of the upsampling in the task loss."""
    scores = torch.randn(8, 11, size[0] // 8, size[1] // 8, requires_grad=True)
    plain = median_ms(lambda: F.interpolate(scores, size, mode="bilinear", align_corners=True).sum().backward())
    ours = median_ms(lambda: resize_scores(scores, size).sum().backward())
    print(f"  resize to {size[0]}x{size[1]}: F.interpolate {plain:.1f}, matrix products {ours:.1f}  ({plain / ours:.1f}x)")


def layout(config: RunConfig, size: tuple[int, int]) -> None:
    """Forward and backward of the student in both memory layouts."""
    images, found = torch.rand(8, 3, *size), {}
    for name, form in (("contiguous", torch.contiguous_format), ("channels_last", torch.channels_last)):
        model = build_network(config, 11).to(memory_format=form)
        found[name] = median_ms(lambda: model(images).logits.square().mean().backward())
    ratio = found["contiguous"] / found["channels_last"]
    print(f"  student: contiguous {found['contiguous']:.0f}, channels_last {found['channels_last']:.0f}  ({ratio:.2f}x)")


def cohort(config: RunConfig, teacher: torch.nn.Module, size: tuple[int, int]) -> None:
    """One step of K students that share a teacher pass against K steps with a pass each."""
    images, labels = torch.rand(8, 3, *size), torch.randint(0, 11, (8, *size))
    source = Teacher(teacher, None, 0)
    one_pass = median_ms(lambda: source(images, labels, 0))
    names = ("kd", "cwd", "hwd", "fakd_cwd", "fakd_pd", "kd+rdd")
    steps = {}
    for name in names:
        student = RunConfig(config.data, config.network, config.schedule, method=name)
        trainee = Trainee(student, 11, teacher.info, torch.device("cpu"))
        prediction = source(images, labels, 0)
        steps[name] = median_ms(lambda: trainee.train_step(images, labels, prediction))
    print(f"  teacher pass {one_pass:.0f}; steps: " + ", ".join(f"{k} {v:.0f}" for k, v in steps.items()))
    alone, together = sum(steps.values()) + len(names) * one_pass, sum(steps.values()) + one_pass
    print(f"  {len(names)} students: alone {alone:.0f}, as a cohort {together:.0f}  ({alone / together:.2f}x)")


def main() -> None:
    """All three at the sizes of the CPU profiles."""
    torch.set_num_threads(1)
    for name in ("quick", "small"):
        profile = get_profile(name)
        data = profile.data_config("camvid")
        config = RunConfig(data, profile.student, profile.schedule)
        teacher = build_network(RunConfig(data, profile.teacher, profile.schedule), 11)
        print(f"{name}: {profile.student.name} width {profile.student.width:g}, batch 8 of {data.size[0]}x{data.size[1]}, ms")
        resizing(data.size)
        layout(config, data.size)
        cohort(config, teacher, data.size)


if __name__ == "__main__":
    main()
