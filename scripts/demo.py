"""A demo: caption ten sample photographs, show, search and export the captions, in a temporary folder."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from sample_images import copy_samples

STEPS = (
    ("Caption every image in a folder. A private queue, database and worker start by themselves.",
     ["submit", "{images}"]),
    ("All captions of the folder.",
     ["show", "{images}"]),
    ("Search the captions.",
     ["search", "man"]),
    ("Export them, with digests, sizes and models.",
     ["export", "--format", "csv", "-o", "{temporary}/captions.csv"]),
)  # fmt: skip


def main() -> int:
    """Run the steps; return the exit code of the first step that fails, or 0."""
    producer = str(Path(sys.executable).with_name("producer"))
    with tempfile.TemporaryDirectory(prefix="captionmill-demo-") as temporary:
        images = copy_samples(Path(temporary) / "images")
        print(f"Demo: caption {len(images)} freely licensed photographs, offline. It takes about half a minute.")
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("CAPTIONING_")}
        environment = inherited | {"CAPTIONING_DATA_DIR": f"{temporary}/data"}
        for number, (explanation, template) in enumerate(STEPS, start=1):
            names = {"images": f"{temporary}/images", "temporary": temporary}
            arguments = [argument.format(**names) for argument in template]
            shown = " ".join(argument.replace(temporary, "...") for argument in arguments)
            print(f"\n{number}. {explanation}\n$ producer {shown}", flush=True)
            code = subprocess.run([producer, *arguments], env=environment, check=False).returncode
            if code:
                return code
    print("\nDone. The temporary folder is deleted. Now try your own images:\n  .venv/bin/producer submit ./images")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
