"""Other ways to caption a folder with the same model, which `benchmarks.compare` runs beside ours.

Each is one file that an expert of its tool should call fair, and is run as `python -m benchmarks.competitors.NAME
FOLDER OUT`. It writes its captions into the folder OUT, and there into `finished` when how many images were finished.
"""
