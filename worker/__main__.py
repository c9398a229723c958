"""`python -m worker`: the same as the `worker` command."""

from captionmill import worker

if __name__ == "__main__":  # pool processes import this module again
    worker()
