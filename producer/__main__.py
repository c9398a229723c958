"""`python -m producer`: the same as the `producer` command."""

from captionmill import producer

if __name__ == "__main__":
    producer()
