"""The cost page: agreement by hand, memory of a known call, and every printed number of the papers accounted for."""

import sys

import pandas as pd
import pytest
import torch

from segkd.analysis import cost
from segkd.study.tables.reported import REPORTED


@pytest.fixture(scope="module")
def found():
    return cost.reported_costs(REPORTED)


@pytest.mark.parametrize(
    "printed, ours, verdict",
    [
        ("86.0", 85.96, "yes"), ("86.0", 86.0499, "yes"), ("86.0", 86.09, "last digit"), ("86.0", 86.11, "no"),
        ("2371", 2371.66, "last digit"), ("0.35", 0.354, "yes"), ("0.35", 0.361, "no"), ("507.4", 507.3466, "last digit"),
    ],
)  # fmt: skip
def test_agreement_by_hand(printed, ours, verdict):
    assert cost.agreement(printed, ours) == verdict


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel tells it on Linux only")
def test_peak_memory_of_a_known_call():
    kept = []
    peak = cost.peak_memory(lambda: kept.append(torch.ones(64, 2**18)), torch.device("cpu"))  # 64 MiB
    assert 60 <= peak <= 80


def test_every_printed_cost_has_its_row_and_its_verdict(found):
    values = pd.read_csv(REPORTED, dtype=str, keep_default_na=False)
    printed = values[values["metric"].isin(["params_m", "flops_g"])]
    assert found["reported"].tolist() == printed["value"].tolist() and len(found) == 72
    assert set(found[found["agrees"] == "not here"]["network"]) == {"enet", "espnet", "icnet", "fcn", "refinenet", "ocnet"}
    assert found[found["agrees"] == "no"]["network"].tolist() == ["deeplabv3/resnet18+label", "pspnet/resnet18+label"]
    assert (found[found["quantity"] == "params_m"]["agrees"] != "no").all()


def test_rows_stated_at_512_are_those_of_512x2048(found):
    rows = cost.misstated(found)
    rdd = rows[rows["paper"] == "rdd"]
    assert set(rdd["table"]) == {"Table 2", "Table 3"} and set(rdd["reproduced"]) == {"as 512x2048, 21 classes"}
    assert (rdd["ours, 512x512"] * 3 < rdd["reported"].astype(float)).all()
    voc = rdd[rdd["table"] == "Table 2"]
    assert (voc["ours, 512x2048"] - voc["reported"].astype(float)).abs().max() < 0.06


def test_measured_rows_and_pictures(found):
    costs = cost.network_costs((256, 512), (64, 96), ["fcn/hrnet_w18_small", "deeplabv3/resnet18"])
    assert costs["network"].tolist() == ["fcn/hrnet_w18_small", "deeplabv3/resnet18"] and (costs["ms"] > 0).all()
    assert costs.loc[1, "papers' GMACs"] > costs.loc[1, "GMACs"]
    assert costs.loc[0, "papers' GMACs"] == pytest.approx(costs.loc[0, "GMACs"])  # no dilation in an HRNet
    assert "deeplabv3/resnet18" in cost.costs_table(costs).to_html()
    html = cost.reported_table(found).to_html()
    rows = (72 + 4) // 2  # both quantities a row; four rows of HWD print no parameters
    assert html.count("<tr>") == 1 + rows and "as 512x2048" in html and "nan" not in html
    assert len(cost.cost_figure(costs).axes) == len(cost.rule_figure(costs).axes) == 1
    assert cost.headline(costs, found)["cost numbers recomputed"] == "58 of 60"
