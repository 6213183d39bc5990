"""The test of every claim of data/papers/claims.csv, one declarative entry a claim; see `segkd.study.claims.parts`."""

from __future__ import annotations

import math
from dataclasses import replace

from segkd.study.claims.parts import NARROW, SAME, TIME, WIDE, Cell, Comparison, Test, chain, method_cell, on, over, paper_cell, together, value
from segkd.study.tables.papers import BASELINE, CWD, LABEL_TEACHER, TEACHER, Row

baseline, cwd, teacher, label_teacher = Cell(BASELINE), Cell(CWD), Cell(TEACHER), Cell(LABEL_TEACHER)
kd, lad, hwd = (paper_cell(*key) for key in (("rdd", "kd"), ("lad", "lad"), ("hwd", "hwd")))
fakd, fakd_pd = (paper_cell("fakd", name) for name in ("fakd", "fakd_pd"))
rdd, rdd_tfe, rdd_tse = (paper_cell("rdd", name) for name in ("rdd", "rdd_tfe", "rdd_tse"))
lad_rivals = [paper_cell("lad", m) for m in ("skd", "ifvd", "cwd", "cirkd")]
maskd = paper_cell("lad", "maskd")
fakd_rivals = [paper_cell("fakd", m) for m in ("skd", "ifvd", "cirkd")]
hwd_rivals = {m: paper_cell("hwd", m) for m in ("skd", "cirkd", "mgd")}
rdd_rivals = [paper_cell("rdd", m) for m in ("skd", "ifvd", "cwd", "cirkd")]
at, dsd, cirkd = (paper_cell("rdd", m) for m in ("at", "dsd", "cirkd"))
added = {m: paper_cell("rdd", f"{m}+rdd") for m in ("at", "dsd", "cirkd")}

USED = 1.0  # points that a network must lose without an input before it is said to use it
SAME_TIME = -math.log(1.1)  # "no significant overhead": less than 10 % more time a step
ONE_DATA = "The same comparison on other data is {}."
CLOCK = "Time a step, teacher's pass included, each measured by itself and in turns (benchmarks/results/methods.md): n counts rounds, not seeds."


def lad_alpha(alpha: float, noise: bool, role: str = "student") -> Cell:
    """LAD Table 9: pixel noise alpha, with or without class-wise noise."""
    label = f"{role.replace('_', '-')} alpha {alpha:g}, class noise {'on' if noise else 'off'}"
    hyper = {"lad": {"alpha": alpha, "class_noise": noise}}
    return Cell(Row(label, "lad" if role == "label_teacher" else "lad+cwd", hyper, role))


def gain(of: Cell, over_: Cell, than: Cell, than_over: Cell) -> Comparison:
    """The gain of one cell over a second is to exceed the gain of a third over a fourth."""
    what = f"({of.label} − {over_.label}) − ({than.label} − {than_over.label})"
    return Comparison(what, (of, over_, than, than_over), (1.0, -1.0, -1.0, 1.0))


def at_least(cell: Cell, others: list[Cell]) -> tuple[Comparison, ...]:
    """As good as each of the others, but for SAME points."""
    return over(cell, others, limit=-SAME)


beta = lambda v: method_cell(f"HWD beta {v:g}", "hwd", "hwd", beta=v)  # noqa: E731
tau = lambda v: method_cell(f"HWD tau' {v:g}", "hwd", "hwd", softmax_temperature=v)  # noqa: E731
mu = lambda v: method_cell(f"HWD mu {v:g}", "hwd", "hwd", mu=v)  # noqa: E731
fakd_lambda = lambda v: method_cell(f"FAKD lambda {v:g}", "fakd_cwd", "fakd_cwd", lam_max=v)  # noqa: E731
rdd_with = lambda label, **hyper: method_cell(f"RDD {label}", "kd+rdd", "rdd", **hyper)  # noqa: E731
ALPHAS = (0.0, 0.001, 0.01, 0.1, 1.0)
student, taught = (lambda a, on_: lad_alpha(a, on_)), (lambda a, on_: lad_alpha(a, on_, "label_teacher"))  # noqa: E731
plain_consistency = {"lad": {"consistency": 0.0}}
no_consistency = Cell(Row("LAD without consistency", "lad+cwd", plain_consistency))
inconsistent_teacher = Cell(Row("label-teacher without consistency", "lad", plain_consistency, "label_teacher"))
clean_teacher = taught(0.0, False)
wide_lad, lad_from_wide = on(lad, student=WIDE), on(lad, teacher=WIDE)
wide_from_narrow = on(lad, student=WIDE, teacher=NARROW)  # LAD Table 7: STDC1 teaches STDC2
PSP, DEEP, MOBILE = "pspnet/resnet18", "deeplabv3/resnet18", "deeplabv3/mobilenet_v2"


def spatial_signs() -> tuple[Comparison, ...]:
    """HWD Table II: which spatial method helps which student."""
    helps = {"skd": (DEEP,), "cirkd": (DEEP, MOBILE)}
    pairs = [(method, [on(hwd_rivals[method], student=name), on(baseline, student=name)], name) for method in helps for name in (DEEP, MOBILE, PSP)]
    return tuple(c for method, pair, name in pairs for c in chain(*(pair if name in helps[method] else reversed(pair))))


def six_students() -> tuple[Comparison, ...]:
    """LAD Table 4: the same order for each of its students; OCRNet is taught by OCRNet-W48."""
    taught = dict.fromkeys(("fcn/resnet18", "fcn/resnet50", "stdc/stdc1", "stdc/stdc2"), cwd)
    taught |= dict.fromkeys(("ocrnet/hrnet_w18_small", "ocrnet/hrnet_w18"), Cell(replace(CWD, teacher="ocrnet/hrnet_w48")))
    return tuple(c for name, plain in taught.items() for c in chain(*(on(cell, student=name) for cell in (lad, plain, baseline))))


def from_scratch(cell: Cell) -> Test:
    """The gain from random weights is to exceed the gain from ImageNet weights."""
    start = lambda c, w: on(c, weights=w)  # noqa: E731
    sides = (start(cell, "random"), start(baseline, "random"), start(cell, "imagenet"), start(baseline, "imagenet"))
    return Test((gain(*sides),), full_width=True)


def needing(tests: dict[str, Test], *premises: str) -> dict[str, Test]:
    """The tests with these premises (`segkd.study.claims.premises`), where they name none themselves and are about more than time."""
    timed = lambda test: all(c.measure == TIME for c in test.comparisons)  # noqa: E731
    return {name: test if test.premises is not None or timed(test) else replace(test, premises=premises) for name, test in tests.items()}


LAD = needing({
    "lad-01": Test(over(lad, [*lad_rivals, maskd]), start="imagenet"),
    "lad-02": Test(over(lad, [cwd])),
    "lad-03": Test(over(label_teacher, [teacher]), premises=(), note="The label-assisted teacher is scored with the noised label, as in the paper."),
    "lad-04": Test(check="label_channel"),
    "lad-05": Test((
        *over(cwd, [lad], TIME), *over(lad_rivals[0], [cwd], TIME), *over(maskd, [cwd], TIME),
        *over(lad_rivals[1], [lad_rivals[0], maskd], TIME), *over(lad_rivals[3], [lad_rivals[1]], TIME),
    ), note=CLOCK),
    "lad-06": Test(over(lad, lad_rivals), start="random"),
    "lad-07": Test(over(lad, lad_rivals), datasets=("voc2012",), note=ONE_DATA.format("lad-01 or lad-06")),
    "lad-08": Test(six_students(), note="The paper's six students, at the study's width; they are the rows of LAD Table 4."),
    "lad-09": Test(over(lad, [baseline, cwd]), datasets=("ade20k", "voc2012", "coco_stuff10k", "coco_stuff164k"),
                   note=ONE_DATA.format("lad-08")),
    "lad-10": Test(over(lad, [cwd]) + over(lad_from_wide, [cwd]), note="One plain teacher here, three in the paper."),
    "lad-11": Test((together(
        "0.5 − rank correlation of the teachers' and the students' mIoU",
        (teacher, cwd, label_teacher, lad, taught(0.01, False), student(0.01, False)), "teacher_rank"),),
        note="Teachers: plain, label-assisted, label-assisted without class-wise noise. Above 0: a correlation below 0.5."),
    "lad-12": Test(at_least(lad, [lad_from_wide]), note=f"As good but for {SAME} points."),
    "lad-13": Test((
        *over(wide_from_narrow, [on(baseline, student=WIDE)]), *over(wide_lad, [on(baseline, student=WIDE)]),
        *over(lad, [baseline]), *over(lad_from_wide, [baseline]), *over(lad_from_wide, [lad]), *over(wide_lad, [wide_from_narrow]),
    ), note="The two sizes are the study's student and its wider teacher network."),
    "lad-14": Test(why_not="needs DINOv2's weights, which no profile fetches, and a student trained through LoRA"),
    "lad-15": Test(over(inconsistent_teacher, [label_teacher], "pairwise_kl"), premises=("label_used",),
                   note="Mean KL between three noise draws on test images, zero diagonal included as in the paper."),
    "lad-16": Test(over(lad, [no_consistency])),
    "lad-17": Test((
        Comparison("mIoU lost without the image: noised − clean label", (label_teacher, clean_teacher), measure="image_drop"),
        value("mIoU lost without the label, noised label", label_teacher, "label_drop", USED),
        value("mIoU kept without the image, clean label, beyond half", clean_teacher, "label_alone"),
    ), premises=(), note="Inputs replaced: the image by its mean colour, the label by zeros."),
    "lad-18": Test((
        *over(student(0.01, True), [student(a, True) for a in ALPHAS if a != 0.01]),
        *(c for a, b in zip(ALPHAS, ALPHAS[1:]) for c in at_least(taught(a, True), [taught(b, True)])),
        *over(baseline, [student(0.1, True), student(1.0, True)]),
    ), note=f"'Only falls': no rise of more than {SAME} points from one alpha to the next."),
    "lad-19": Test(tuple(c for a in ALPHAS for c in (
        *over(taught(a, False), [taught(a, True)]), *over(student(a, True), [student(a, False)]), *over(baseline, [student(a, False)]),
    ))),
}, "label_teacher", "label_used")  # fmt: skip

FAKD = needing({
    "fakd-01": Test(over(fakd, [*fakd_rivals, cwd, baseline])),
    **{f"fakd-0{i}": Test(over(fakd, [*fakd_rivals, cwd, baseline]), datasets=(name,), note=ONE_DATA.format("fakd-01"))
       for i, name in ((2, "pascal_context"), (3, "cityscapes"), (4, "voc2012"))},
    "fakd-05": Test(tuple(c for m in (*fakd_rivals, cwd, fakd) for c in over(m, [baseline]))),
    "fakd-06": from_scratch(fakd),
    "fakd-07": Test(over(fakd_pd, [kd])),
    "fakd-08": Test((gain(fakd, cwd, fakd_pd, kd), *over(fakd_pd, [kd]))),
    "fakd-09": Test(over(fakd_lambda(1.0), [cwd, *(fakd_lambda(v) for v in (0.5, 1.5, 2.5))]), note="Lambda 0 is CWD."),
    "fakd-10": Test(over(fakd, [*fakd_rivals, cwd, baseline], "macc")),
    "fakd-11": Test(over(cwd, fakd_rivals)),
    "fakd-12": Test((together("gain over CWD, harder − easier half of the classes", (baseline, cwd, fakd), "hard_minus_easy"),), premises=("teacher", "classes"),
                    note="Halves by the IoU of the baseline, which takes no part in the gain."),
    "fakd-13": Test((*over(fakd, [cwd], "activation"), value("activation on rare classes over elsewhere, FAKD", fakd, "activation")),
                    note="Mean absolute head feature on the rarer half of the classes over that elsewhere: above 1, and above CWD's."),
    "fakd-14": Test(over(cwd, [fakd], TIME, SAME_TIME), note=CLOCK),
    "fakd-15": Test(check="augmentation_bound"),
}, "teacher")  # fmt: skip

HWD = needing({
    "hwd-01": Test(over(hwd, [baseline, cwd, *hwd_rivals.values()])),
    "hwd-02": Test(over(cwd, [baseline, *hwd_rivals.values()])),
    "hwd-03": Test(spatial_signs(), note="The three students at the study's width."),
    "hwd-04": Test(over(hwd_rivals["mgd"], [baseline]) + over(cwd, [hwd_rivals["mgd"]]) + over(hwd, [hwd_rivals["mgd"]])),
    "hwd-05": Test(over(hwd, [baseline, cwd, *hwd_rivals.values()]), datasets=("cityscapes",), note=ONE_DATA.format("hwd-01")),
    "hwd-06": Test(chain(hwd, hwd_rivals["mgd"], cwd), datasets=("coco_stuff164k", "coco_stuff10k")),
    "hwd-07": Test(why_not="compares data sets of 19 and of 150 and more classes; a study has one data set"),
    "hwd-08": Test((
        together("gain over CWD on classes that CWD spoils", (baseline, cwd, hwd), "repaired"),
        together("share of classes with HWD above CWD, beyond half", (baseline, cwd, hwd), "share_better"),
        together("gap to the teacher: mean − that of the easiest third", (baseline, teacher), "easy_gap"),
    ), premises=("teacher", "classes"), note="Spoiled classes are found on the other seeds, so that chance alone repairs none of them."),
    "hwd-09": Test((value("smallest TD/NTD of a class", cwd, "divergence_ratio"),), note="Above 1 for every class; pooled over test images."),
    "hwd-10": Test(tuple(c for v in (0.01, 0.1, 0.3, 0.5, 0.7) for c in over(beta(v), [cwd])) + over(beta(0.1), [beta(0.99)])),
    "hwd-11": Test(over(beta(0.1), [tau(v) for v in (1.0, 2.0, 3.0, 4.0, 5.0, 8.0)]) + over(cwd, [tau(1.0), tau(2.0)]),
                   note="Beta 0.1, the paper's default, against each tau'; 'poor' is below CWD."),
    "hwd-12": Test(over(mu(0.0), [mu(v) for v in (-1.0, -0.5, 2.0)]), note="That a large mu is CWD is checked as a formula: hwd-13."),
    "hwd-13": Test(check="holistic_weights"),
    "hwd-14": Test(over(cwd, [hwd], TIME, SAME_TIME), note=CLOCK),
    "hwd-15": Test(over(hwd, [cwd, baseline], "silhouette") + over(hwd, [cwd, baseline], "thin_iou"), premises=("teacher", "classes"),
                   note="Silhouette of head features; IoU of the three classes with the thinnest regions."),
    "hwd-16": Test((value("rank correlation of class weights: halves of the images − early and late", hwd, "order_change"),),
                   note="10 % of the training against its end."),
}, "teacher")  # fmt: skip

RDD = needing({
    "rdd-01": Test(over(rdd, [baseline, *rdd_rivals])),
    "rdd-02": Test(tuple(c for m in (*rdd_rivals, rdd) for c in over(m, [baseline]))),
    "rdd-03": from_scratch(rdd),
    "rdd-04": Test(over(on(rdd, student=MOBILE), [on(rdd, student=PSP)]), note="Both at the study's width; the cost page counts them at full width."),
    "rdd-05": Test(over(rdd, [baseline, *rdd_rivals]), datasets=("voc2012",), note=ONE_DATA.format("rdd-01")),
    "rdd-06": Test(over(rdd, [kd, at, dsd, cirkd, baseline])),
    "rdd-07": Test(over(rdd, [baseline, *rdd_rivals]), datasets=("camvid",), note=ONE_DATA.format("rdd-01")),
    "rdd-08": Test((
        *at_least(baseline, [rdd_tfe]), *over(rdd_tse, [rdd_tfe]),
    ), note=f"'Almost nothing': less than {SAME} points."),
    "rdd-09": Test(chain(*(rdd_with(f"p = {p:.0%}".replace("%", " %"), warmup=p) for p in (0.1, 0.2, 0.3, 0.0)))),
    "rdd-10": Test(chain(rdd_with("XOR", mode="xor"), rdd_with("OR", mode="or"), baseline, rdd_with("AND", mode="and"))),
    "rdd-11": Test(over(rdd_with("t 0.7", threshold=0.7), [rdd_with(f"t {t:g}", threshold=t) for t in (0.6, 0.65, 0.75, 0.8)])),
    "rdd-12": Test(tuple(c for alone, both in ((at, added["at"]), (dsd, added["dsd"]), (cirkd, added["cirkd"]), (kd, rdd)) for c in over(both, [alone]))),
    "rdd-13": Test(at_least(rdd, list(added.values())), note=f"'Not beaten': by more than {SAME} points."),
    "rdd-14": Test((
        Comparison("time of KD, AT, DSD, CIRKD over that with RDD, geometric mean", (kd, at, dsd, cirkd, rdd, *added.values()),
                   (0.25,) * 4 + (-0.25,) * 4, TIME, SAME_TIME),
        *(c for m in (at, dsd, cirkd) for c in over(m, [rdd], TIME)),
    ), note=CLOCK + " The paper's first pair is no distillation against RDD; here KD against KD with RDD, which share the teacher's pass."),
    "rdd-15": Test(check="same_network"),
    "rdd-16": Test((
        value("weight of right − of wrong pixels", teacher, "difficulty_right"),
        value("weight inside − near label boundaries", teacher, "difficulty_inside"),
    ), premises=(), note="Weights of the first stage, from the plain teacher, on test images."),
    "rdd-17": Test((
        value("XOR pixels: teacher sure − student sure, at the end", rdd, "xor_balance"),
        value("the same at 10 % of the training", rdd, "xor_balance_early"),
    ), note="On test images, shares of all XOR pixels."),
    "rdd-18": Test(over(rdd, [rdd_tse], "early_miou"), note="Validation mIoU at the first check after the warm-up (20 % of the training or before)."),
    "rdd-19": Test(over(rdd, [kd, baseline], "boundary_miou"), note="mIoU of pixels within two of a label boundary."),
}, "teacher")  # fmt: skip

ALL = needing({
    "x-01": Test(over(cwd, [cirkd]) + over(cirkd, [rdd_rivals[2]]),
                 note="Holds if the form of CWD explains the papers' disagreement: logits alone (FAKD, HWD) above CIRKD, CIRKD's own form of CWD (LAD, RDD) below it."),
}, "teacher")  # fmt: skip

TESTS: dict[str, Test] = {**LAD, **FAKD, **HWD, **RDD, **ALL}
