"""The main job on sample photographs, in a temporary folder that is gone afterwards."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from sample_images import copy_samples


def main() -> int:
    """Submit the samples, show every caption, try a search; return the exit code of what went wrong first."""
    producer = str(Path(sys.executable).with_name("producer"))
    with tempfile.TemporaryDirectory(prefix="captionmill-demo-") as place:
        images = Path(place) / "images"
        copy_samples(images)
        kept = {k: v for k, v in os.environ.items() if not k.startswith("CAPTIONING_")}
        environment = kept | {"CAPTIONING_DATA_DIR": f"{place}/data"}
        for words in (["submit", str(images)], ["export", "--format", "csv"], ["search", "man"]):
            shown = " ".join(word.replace(place, "...") for word in words)
            print(f"\n$ producer {shown}", flush=True)
            code = subprocess.run([producer, *words], env=environment, check=False).returncode
            if code:
                return code
    print("\nThe demo's folder is gone. Now your own: .venv/bin/producer submit ./images")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
