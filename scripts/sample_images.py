"""Ten freely licensed photographs from scikit-image and scikit-learn, for the demo and the tests.

python scripts/sample_images.py FOLDER
"""

import shutil
import sys
from importlib.resources import files
from pathlib import Path

SCIKIT_IMAGE = ("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "grass.png", "hubble_deep_field.jpg",
                "motorcycle_left.png", "rocket.jpg")  # fmt: skip
SCIKIT_LEARN = ("china.jpg", "flower.jpg")


def copy_samples(folder: Path, more: tuple[str, ...] = ()) -> list[Path]:
    """Copy the photographs into a folder, which is created if necessary; return the paths of the copies.

    `more` names other images of scikit-image.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sources = [files("skimage") / "data" / name for name in (*SCIKIT_IMAGE, *more)]
    sources += [files("sklearn") / "datasets" / "images" / name for name in SCIKIT_LEARN]
    return [Path(shutil.copyfile(str(source), folder / source.name)) for source in sources]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    copy_samples(Path(sys.argv[1]))
