"""What a row of a paper's table stands for: the same word hides different sums of parts in different papers.

Keys are (paper, method) as in data/papers/reported.csv, or ("controls", what is changed besides the method); values are
specs for `create_method`. Rows named "CIRKD scripts"
are numbers that LAD and RDD took over from CIRKD's paper, so they are what its scripts combine (train_scripts of
winycg/CIRKD@2d8ad0f): SKD, IFVD and CWD contain pixel-wise KD and the adversarial term, AT contains KD, DSD does not.
FAKD does not say how its rivals are set; they are taken to be the same.
"""

from __future__ import annotations

from typing import Any

SKD = "skd"  # KD 1, pair-wise 10, adversarial 0.001
IFVD = "ifvd+skd"  # KD 1, IFVD 20, adversarial 0.001
CIRKD_STYLE_CWD = "cwd+skd"  # KD 1, CWD on logits 3 and on features 50, adversarial 0.001

ROWS: dict[tuple[str, str], str] = {
    ("lad", "baseline"): "baseline",  # LAD Table 1
    ("lad", "teacher"): "lad",  # LAD Tables 1-9 where its name ends in "+label"; the others are plain ("baseline")
    ("lad", "skd"): SKD,  # LAD Tables 1-3: CIRKD scripts
    ("lad", "ifvd"): IFVD,  # LAD Tables 1-3: CIRKD scripts
    ("lad", "cwd"): "cwd",  # logits only, weight 3 (LAD section 4.1); Tables 1-3 print CIRKD's numbers
    ("lad", "cirkd"): "kd+cirkd",  # LAD Tables 1-3: CIRKD scripts, lambda_kd 1
    ("lad", "maskd"): "maskd",  # LAD Table 1: MasKD code, no KD term
    ("lad", "lad"): "lad+cwd",  # LAD Eq. 5: CWD from the label-assisted teacher
    ("fakd", "baseline"): "baseline",  # FAKD Table 1
    ("fakd", "teacher"): "baseline",  # FAKD Table 1
    ("fakd", "skd"): SKD,  # FAKD Tables 1-3; settings not stated
    ("fakd", "ifvd"): IFVD,  # FAKD Tables 1-3; settings not stated
    ("fakd", "cirkd"): "kd+cirkd",  # FAKD Tables 1-3; settings not stated
    ("fakd", "pd"): "kd",  # FAKD Table 4: PD is pixel-wise distillation, Eq. 1
    ("fakd", "cwd"): "cwd",  # FAKD Table 4
    ("fakd", "fakd"): "fakd_cwd",  # FAKD Table 1: "ours" is the CWD form, as the equal values of Table 4 show
    ("fakd", "fakd_pd"): "fakd_pd",  # FAKD Table 4
    ("fakd", "fakd_cwd"): "fakd_cwd",  # FAKD Table 4
    ("hwd", "baseline"): "baseline",  # HWD Table II
    ("hwd", "teacher"): "baseline",  # HWD Table II
    ("hwd", "skd"): SKD,  # HWD code, defaults of its train script: KD 1, pair-wise 10, adversarial 0.001
    ("hwd", "cwd"): "cwd",  # HWD Table II: logits only, weight 3 (HWD code)
    ("hwd", "cirkd"): "kd+cirkd",  # HWD code, as CIRKD scripts
    ("hwd", "mgd"): "mgd",  # HWD code: on the head feature, without the CWD term of MGD's own rows
    ("hwd", "hwd"): "hwd",  # HWD Eq. 8: no KD term
    ("rdd", "baseline"): "baseline",  # RDD Table 1
    ("rdd", "teacher"): "baseline",  # RDD Table 1
    ("rdd", "kd"): "kd",  # RDD Table 3
    ("rdd", "skd"): SKD,  # RDD Tables 1, 2, 4: CIRKD scripts
    ("rdd", "ifvd"): IFVD,  # RDD Tables 1, 2, 4: CIRKD scripts
    ("rdd", "cwd"): CIRKD_STYLE_CWD,  # RDD Tables 1, 2, 4: CIRKD scripts
    ("rdd", "cirkd"): "kd+cirkd",  # RDD Tables 1, 2, 4: CIRKD scripts
    ("rdd", "at"): "kd+at",  # RDD Table 3; RDD scripts pass lambda_kd 1 (Eq. 13 has no KD term)
    ("rdd", "dsd"): "dsd",  # RDD Table 3; RDD scripts pass lambda_kd 0
    ("rdd", "rdd"): "kd+rdd",  # RDD Eq. 5: weighted task loss plus KD
    ("rdd", "kd+rdd"): "kd+rdd",  # RDD Table 8
    ("rdd", "at+rdd"): "kd+at+rdd",  # RDD Table 8; RDD scripts
    ("rdd", "dsd+rdd"): "dsd+rdd",  # RDD Table 8; RDD scripts
    ("rdd", "cirkd+rdd"): "kd+cirkd+rdd",  # RDD Table 8; RDD scripts
    ("rdd", "rdd_tfe"): "kd+rdd",  # RDD Table 5, row a
    ("rdd", "rdd_tse"): "kd+rdd",  # RDD Table 5, row b
    ("controls", "longer"): "baseline",  # ours: does distillation beat the same student trained longer?
    ("controls", "untrained_teacher"): "cwd",  # ours: does it beat a teacher that knows nothing?
    ("controls", "shuffled_teacher"): "cwd",  # ours: does it beat a teacher that calls every class by another's name?
}

# Hyper-parameters that a row sets besides its parts.
ROW_HYPER: dict[tuple[str, str], dict[str, Any]] = {
    **{(paper, "ifvd"): {"skd": {"pair_weight": 0.0}} for paper in ("lad", "fakd", "rdd")},  # CIRKD train_ifvd.sh
    ("rdd", "cwd"): {  # CIRKD train_cwd.sh; its code divides by the student's channels
        "skd": {"pair_weight": 0.0}, "cwd": {"feature_weight": 50.0, "feature_divisor": "student"},
    },
    ("rdd", "rdd_tfe"): {"stage": "tfe"},  # RDD Table 5, row a: the teacher's difficulty throughout
    ("rdd", "rdd_tse"): {"stage": "tse"},  # RDD Table 5, row b: masks throughout
}  # fmt: skip

LONGER = 1.5  # times as many steps as the students of the same study
