"""`python -m training`: the same as the `training` command."""

from captionmill import training

if __name__ == "__main__":
    training()
