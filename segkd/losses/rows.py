"""What a row of a paper's table stands for: the same word hides different sums of parts in different papers.

Keys are (paper, method) as in data/papers/reported.csv, values are specs for `create_method`.
"""

from __future__ import annotations

from typing import Any

ROWS: dict[tuple[str, str], str] = {
    ("lad", "baseline"): "baseline",  # LAD Table 1
    ("lad", "cwd"): "cwd",  # logits only, weight 3 (LAD section 4.1); Tables 1-3 print CIRKD's numbers
    ("lad", "lad"): "lad+cwd",  # LAD Eq. 5: CWD from the label-assisted teacher
    ("fakd", "baseline"): "baseline",  # FAKD Table 1
    ("fakd", "pd"): "kd",  # FAKD Table 4: PD is pixel-wise distillation, Eq. 1
    ("fakd", "cwd"): "cwd",  # FAKD Table 4
    ("fakd", "fakd"): "fakd_cwd",  # FAKD Table 1: "ours" is the CWD form, as the equal values of Table 4 show
    ("fakd", "fakd_pd"): "fakd_pd",  # FAKD Table 4
    ("fakd", "fakd_cwd"): "fakd_cwd",  # FAKD Table 4
    ("hwd", "baseline"): "baseline",  # HWD Table II
    ("hwd", "cwd"): "cwd",  # HWD Table II: logits only, weight 3 (HWD code)
    ("hwd", "hwd"): "hwd",  # HWD Eq. 8: no KD term
    ("rdd", "baseline"): "baseline",  # RDD Table 1
    ("rdd", "kd"): "kd",  # RDD Table 3
    ("rdd", "rdd"): "kd+rdd",  # RDD Eq. 5: weighted task loss plus KD
    ("rdd", "kd+rdd"): "kd+rdd",  # RDD Table 8
    ("rdd", "rdd_tfe"): "kd+rdd",  # RDD Table 5, row a
    ("rdd", "rdd_tse"): "kd+rdd",  # RDD Table 5, row b
}

# Hyper-parameters that a row sets besides its parts.
ROW_HYPER: dict[tuple[str, str], dict[str, Any]] = {
    ("rdd", "rdd_tfe"): {"stage": "tfe"},  # RDD Table 5, row a: the teacher's difficulty throughout
    ("rdd", "rdd_tse"): {"stage": "tse"},  # RDD Table 5, row b: masks throughout
}
