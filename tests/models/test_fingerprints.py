"""Golden fingerprints: names, shapes and types in every listed network's state, so that files of today load tomorrow."""

import pytest
import torch

from segkd.models import create_model, list_models
from segkd.models.weights import fingerprint

GOLDEN = {  # at 19 classes and width 1
    "deeplabv3-512/resnet101": "f4f3590851ed1484",
    "deeplabv3-512/resnet18": "d58a093bb77af874",
    "deeplabv3-512/resnet50": "ed2abeac1f412b79",
    "deeplabv3/efficientnet_lite0": "7c2340a0ac70b616",
    "deeplabv3/efficientnet_lite1": "fc30b4dd77348ef1",
    "deeplabv3/efficientnet_lite2": "25e116bd22561ea3",
    "deeplabv3/mobilenet_v2": "163785f62c68df86",
    "deeplabv3/resnet101": "07f52662689759d4",
    "deeplabv3/resnet18": "4ea6fc4ee6bda879",
    "deeplabv3/resnet50": "400953b792898fff",
    "deeplabv3plus/efficientnet_lite0": "ca5342f729c22df0",
    "deeplabv3plus/efficientnet_lite1": "a57282fc85ad03ca",
    "deeplabv3plus/efficientnet_lite2": "c9d4deeae30bfe4d",
    "deeplabv3plus/mobilenet_v2": "ea7d7975d37be0c9",
    "deeplabv3plus/resnet101": "1ddef4f80ce71185",
    "deeplabv3plus/resnet18": "e2894e6e504284b6",
    "deeplabv3plus/resnet50": "94193df1c449aaff",
    "dinov2/vitb14": "aa8a753d1cdf16c5",
    "dinov2/vits14": "f3749395ad58387c",
    "fcn/efficientnet_lite0": "8f11590eca95f95f",
    "fcn/efficientnet_lite1": "ba93fca488e2a44a",
    "fcn/efficientnet_lite2": "b481c572aaaa42e5",
    "fcn/hrnet_w18": "73818dfd3e434f43",
    "fcn/hrnet_w18_small": "051cf8381235b82b",
    "fcn/hrnet_w48": "cdb4014d733d427e",
    "fcn/mobilenet_v2": "aa49de7914cd1b4f",
    "fcn/resnet101": "b6052a4e683d0bbb",
    "fcn/resnet18": "18e0d5db8f9aae02",
    "fcn/resnet50": "7908c4e88cb0e236",
    "isanet/resnet101": "93d1abd3ad7e4227",
    "isanet/resnet18": "235fa1e2740da48a",
    "isanet/resnet50": "f2211a536046e448",
    "ocrnet/hrnet_w18": "8c791d0dc5613a0c",
    "ocrnet/hrnet_w18_small": "16eece6b5c89bdb2",
    "ocrnet/hrnet_w48": "470228cb3a862c69",
    "pspnet/efficientnet_lite0": "bd6237425a3752b8",
    "pspnet/efficientnet_lite1": "fb7d912bebe7ceb3",
    "pspnet/efficientnet_lite2": "80469591fb861761",
    "pspnet/mobilenet_v2": "a01e76a152481f8a",
    "pspnet/resnet101": "1c487821ad3b416e",
    "pspnet/resnet18": "ef219ed3ee54ca86",
    "pspnet/resnet50": "dc610b8509c08da2",
    "stdc/stdc1": "aaee72ce53a15e0f",
    "stdc/stdc2": "23cb009667348526",
}


@pytest.mark.parametrize("name", list_models())
def test_layout_of_the_state(name):
    if "dinov2" in name:
        pytest.importorskip("peft")
    with torch.device("meta"):
        assert fingerprint(create_model(*name.split("/")).state_dict()) == GOLDEN[name]
